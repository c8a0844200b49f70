package ringgrpc

import (
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-ml/lockstep/allreduce"
	"github.com/lockstep-ml/lockstep/allreduce/coder"
)

// Coding says whether 16-bit data is sent to the right neighbour in coded form.
// Both forms are always understood, and the ring's bits are the same.
type Coding uint8

const (
	// CodeAuto codes where that measures faster.
	CodeAuto Coding = iota
	// CodeNever sends values as they are.
	CodeNever
	// CodeAlways codes all that gets shorter by it.
	CodeAlways
)

// ParseCoding reads "auto", "off" or "on".
func ParseCoding(s string) (Coding, error) {
	switch s {
	case "auto":
		return CodeAuto, nil
	case "off":
		return CodeNever, nil
	case "on":
		return CodeAlways, nil
	}
	return 0, fmt.Errorf("coding %q: must be auto, on or off", s)
}

// CodingFigures is what is known about coding on a link, in bytes of values a
// second; 0 is not known.
type CodingFigures struct {
	On    bool    // whether the link codes, trials apart
	Plain float64 // what the link carries of values as they are
	Coded float64 // what it carries of coded ones, counted before coding
	Coder float64 // what one core codes, or decodes if that is slower
	Ratio float64 // bytes sent for one of values
}

// String gives the figures as a log line has them.
func (f CodingFigures) String() string {
	return fmt.Sprintf("%.0f MB/s of values as they are, %.0f MB/s coded; the coder makes %.0f MB/s and leaves %.3f of the bytes",
		f.Plain/1e6, f.Coded/1e6, f.Coder/1e6, f.Ratio)
}

// CodingOf returns the figures of a transport that Node.Join or JoinGroups
// returned, by level. None for any other one, and in a ring of one worker.
func CodingOf(t allreduce.Transport) (figures []CodingFigures) {
	for _, l := range linksOf(t) {
		l.coding.mu.Lock()
		figures = append(figures, l.coding.figures())
		l.coding.mu.Unlock()
	}
	return figures
}

const (
	// windowTime and windowMessages are the least that a window holds, to average
	// the scheduler out.
	windowTime     = 200 * time.Millisecond
	windowMessages = 32
	// pause is how long nothing must be under way for it to count as the ring's
	// pause: its hops follow one another much faster, steps much slower.
	pause = 20 * time.Millisecond
	// sampleEvery is how many messages are sent for one that is coded only to
	// measure, idleSampleEvery where that can hardly change anything.
	sampleEvery     = 32
	idleSampleEvery = 1024
	// sampleBytes bounds what of a message is coded to measure.
	sampleBytes = coder.BlockBytes
)

// coding is the part of a link that decides about coding, and measures. It
// counts only messages that could be coded.
type coding struct {
	mode   Coding
	report func(CodingFigures) // nil, or told of every start and stop

	mu       sync.Mutex
	choice   choice
	underway int       // messages taken from the queue and not yet written
	since    time.Time // until then the window's times count
	window   window
	messages int // in the window
	look     int // messages at which to look whether it is long enough
	sockets  []socket
	sent     int // since the last sample
	enc, dec float64
}

// socket is a connection that messages are written to. What its buffers hold is
// written, to gRPC, but takes the network's time: where it has a clock of its own,
// that one counts.
type socket struct {
	busy func() time.Duration
	then time.Duration // at the window's beginning
}

// figures is called with mu held.
func (c *coding) figures() CodingFigures {
	f := CodingFigures{Plain: c.choice.plain.link, Coded: c.choice.coded.link, Coder: c.choice.coder, Ratio: c.choice.ratio}
	f.On = c.mode == CodeAlways || c.mode == CodeAuto && c.choice.on != c.choice.trial
	return f
}

// codable says whether a message may be coded: those that carry 16-bit values.
func codable(h *allreduce.Header) bool {
	return h.Wire == allreduce.Wire16 && !h.Phase.Exponents() && h.Length > 0 && h.Length%2 == 0
}

// begin notes that a message is about to be sent. It says whether to code it,
// or to code some of it to measure.
func (c *coding) begin(now time.Time) (code, sample bool) {
	c.mu.Lock()
	settled := c.tick(now)
	figures := c.figures()
	c.underway++
	c.sent++
	switch code = c.mode == CodeAlways || c.choice.on; {
	case c.mode == CodeNever || code:
	case c.choice.coder == 0, c.choice.curious() && c.sent >= sampleEvery, c.sent >= idleSampleEvery:
		sample, c.sent = true, 0
	}
	c.mu.Unlock()
	if settled && c.report != nil {
		c.report(figures)
	}
	return code, sample
}

// written notes that a message with so many bytes of values has been written.
func (c *coding) written(now time.Time, values int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance(now)
	c.underway--
	c.messages++
	c.window.values += int64(values)
}

// advance brings the window's time up to now. Called with mu held.
func (c *coding) advance(now time.Time) {
	d := now.Sub(c.since)
	if c.underway > 0 {
		c.window.busy += d
	}
	if c.underway > 0 || d < pause {
		c.window.span += d
	}
	c.since = now
}

// tick ends the window when it is long enough; it says whether coding has
// started or stopped by that. Called with mu held.
func (c *coding) tick(now time.Time) (settled bool) {
	c.advance(now)
	if c.messages < max(c.look, windowMessages) {
		return false
	}
	w := c.window
	if w.span < windowTime {
		c.look = c.messages + windowMessages
		return false
	}
	if busy := c.network(); busy > 0 {
		w.busy = busy
	}
	c.window, c.messages, c.look = window{}, 0, 0
	switch c.mode {
	case CodeAlways:
		c.choice.on = true
		c.choice.learn(w)
	case CodeNever:
		c.choice.learn(w)
	default:
		return c.choice.next(w)
	}
	return false
}

// network is how long the network took since the last call: the longest of the
// sockets', which work side by side. 0 where that is not known. Called with mu held.
func (c *coding) network() (busy time.Duration) {
	for i := range c.sockets {
		s := &c.sockets[i]
		now := s.busy()
		busy = max(busy, now-s.then)
		s.then = now
	}
	return busy
}

// encoded takes in how long values took to code, and what was left of them.
func (c *coding) encoded(values, left int, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enc = blend(c.enc, perSecond(int64(values), took))
	c.choice.ratio = blend(c.choice.ratio, float64(left)/float64(values))
	c.slower()
}

// decoded takes in how long values took to decode.
func (c *coding) decoded(values int, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dec = blend(c.dec, perSecond(int64(values), took))
	c.slower()
}

// slower sets the speed that counts, once both are known: coder and decoder work
// at the same time. Called with mu held.
func (c *coding) slower() {
	if c.enc > 0 && c.dec > 0 {
		c.choice.coder = min(c.enc, c.dec)
	}
}
