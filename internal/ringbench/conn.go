package ringbench

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"
)

// maxMessage bounds a message of the session: a spec with MaxBuckets buckets takes about 1 MiB.
const maxMessage = 4 << 20

// What the driver asks of a member.
const (
	opPrepare = "prepare" // Spec: make gradients, listen; answers with addresses
	opJoin    = "join"    // Place, Counted: take a place in a generation's ring
	opVerify  = "verify"  // Step: reduce all buckets once; answers with digests and what was sent
	opRound   = "round"   // Step: the same, timed
	opStep    = "step"    // Step: the same, as a training step would, with a stand-in for computing
	opRaw     = "raw"     // Bytes: so many to the right and from the left over plain TCP, timed
	opMeasure = "measure" // Step: have the ring measure its links
	opHop     = "hop"     // one byte round the plain ring, timed
)

type request struct {
	Op      string `json:"op"`
	Spec    *Spec  `json:"spec,omitempty"`
	Place   *Place `json:"place,omitempty"`
	Counted bool   `json:"counted,omitempty"`
	Step    uint64 `json:"step,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"`
}

type reply struct {
	Error    string        `json:"error,omitempty"`
	Address  string        `json:"address,omitempty"` // of the ring
	Raw      string        `json:"raw,omitempty"`     // of the plain ring
	Digests  []uint64      `json:"digests,omitempty"`
	Messages int64         `json:"messages,omitempty"`
	Bytes    int64         `json:"bytes,omitempty"`
	Took     time.Duration `json:"took,omitempty"`
	Exposed  time.Duration `json:"exposed,omitempty"` // of Took, after the computing
	CPU      time.Duration `json:"cpu,omitempty"`
	Rate     float64       `json:"rate,omitempty"`
	Coding   []Coding      `json:"coding,omitempty"` // of a round, by level
	Ways     []string      `json:"ways,omitempty"`   // likewise
}

// conn carries messages: 4 bytes of length, little-endian, and JSON.
type conn struct {
	net.Conn
	in *bufio.Reader
}

func newConn(c net.Conn) *conn { return &conn{Conn: c, in: bufio.NewReader(c)} } //bounded: send and receive set a deadline each time

// send writes a message within limit.
func (c *conn) send(v any, limit time.Duration) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return fmt.Errorf("a message of %d bytes, at most %d are allowed: use fewer buckets", len(body), maxMessage)
	}
	if err := c.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err = c.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// receive reads a message within limit.
func (c *conn) receive(v any, limit time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("a message of %d bytes announced, at most %d are allowed", n, maxMessage)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}
