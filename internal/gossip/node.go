package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// probeEvery is how often a node looks at one other. Half a second finds a dead one among a few in about two seconds; faster
	// costs packets and takes a starved machine for a dead one.
	probeEvery = 500 * time.Millisecond
	// tcpTimeout bounds a join and every exchange over TCP.
	tcpTimeout = 3 * time.Second
	// leaveTimeout bounds the goodbye.
	leaveTimeout = time.Second
	// goodbyeEvery is how often the goodbye is said again to those that have not answered.
	goodbyeEvery = 50 * time.Millisecond
	// maxMeta is memberlist's bound on what a node says about itself.
	maxMeta = memberlist.MetaMaxSize
)

// The ways in which Coordinator and Start fail, for errors.Is.
var (
	ErrNobody        = errors.New("nobody answers")
	ErrNotAccepted   = errors.New("not accepted")
	ErrNoCoordinator = errors.New("no coordinator")
	ErrTwo           = errors.New("there is a coordinator already")
)

// Meta is what a node tells all others about itself.
type Meta struct {
	RPC     string `json:"rpc,omitempty"` // HOST:PORT of the coordinator's control server
	Run     string `json:"run,omitempty"`
	Epoch   uint64 `json:"epoch,omitempty"` // counts a run's coordinators: a later one takes an earlier one's place
	Version string `json:"version,omitempty"`
}

// Config is what a Node needs.
type Config struct {
	Name string // unique in the cluster
	Role Role
	// BindAddr is HOST:PORT to listen on, TCP and UDP; port 0 takes a free one.
	BindAddr string
	// AdvertiseAddr is what others are told to dial: HOST:PORT, or HOST to keep the port. Empty is the bound address; it must be
	// given when that is 0.0.0.0 and the machine has several networks.
	AdvertiseAddr string
	Meta          Meta
	// Key is the cluster's secret of 16, 24 or 32 bytes, with which every message is encrypted; empty speaks in clear.
	Key []byte
	// Join lists members to begin with, HOST:PORT each; one that answers is enough. Empty starts a cluster.
	Join []string
	// Label keeps clusters apart that may come to share addresses: messages with another label are dropped.
	Label string
	// Log takes what memberlist says, at debug level; nil discards it.
	Log *slog.Logger
}

// Validate reports every fault at once.
func (c *Config) Validate() error {
	var errs []error
	if c.Name == "" {
		errs = append(errs, errors.New("a node needs a name"))
	}
	if c.Role != Coordinator && c.Role != Worker {
		errs = append(errs, fmt.Errorf("role %q is neither %s nor %s", c.Role, Coordinator, Worker))
	}
	if c.Role == Coordinator && c.Meta.RPC == "" {
		errs = append(errs, errors.New("a coordinator must say where its control server is"))
	}
	if _, _, err := splitAddr(c.BindAddr); err != nil {
		errs = append(errs, fmt.Errorf("address to bind: %w", err))
	}
	for _, j := range c.Join {
		if _, _, err := splitAddr(j); err != nil {
			errs = append(errs, fmt.Errorf("address to join: %w", err))
		}
	}
	if n := len(c.Key); n != 0 && n != 16 && n != 24 && n != 32 {
		errs = append(errs, fmt.Errorf("the gossip key has %d bytes, want 16, 24 or 32", n))
	}
	if len(c.Label) > memberlist.LabelMaxSize {
		errs = append(errs, fmt.Errorf("label of %d bytes, at most %d fit", len(c.Label), memberlist.LabelMaxSize))
	}
	return errors.Join(errs...)
}

func splitAddr(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not HOST:PORT: %w", addr, err)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q is not HOST:PORT: the port must be a number up to 65535", addr)
	}
	return host, port, nil
}

// Node is this process in a cluster. Start makes one, Close ends it.
type Node struct {
	cfg  Config
	list *memberlist.Memberlist
	addr string

	events chan Event
	quit   chan struct{} //bounded: closed by Close
	pump   sync.WaitGroup
	once   sync.Once
	err    error

	mu      sync.Mutex
	peers   map[string]peer
	leaving map[string]bool // peers that have said goodbye
	unheard map[string]bool // peers that have not answered this node's goodbye
	queue   []Event
	second  string        // a coordinator that was kept out
	changed chan struct{} // closed and replaced at every change of peers or queue
}

// peer is another member that lives.
type peer struct {
	Role Role `json:"role"`
	Meta
	at memberlist.Address
}

// Start opens the sockets and joins. It blocks until the join has succeeded or failed, a few seconds at most, and does not retry:
// who starts a worker before its coordinator calls it again. Unlike most constructors here it does start goroutines, memberlist's
// own; Close waits for what can be waited for.
func Start(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	n := &Node{cfg: cfg, events: make(chan Event, 16), quit: make(chan struct{}), peers: make(map[string]peer), leaving: make(map[string]bool), unheard: make(map[string]bool), changed: make(chan struct{})}
	mc, err := n.memberlistConfig()
	if err != nil {
		return nil, err
	}
	list, err := memberlist.Create(mc)
	if err != nil {
		return nil, fmt.Errorf("gossip: cannot listen on %s: %w", cfg.BindAddr, err)
	}
	n.mu.Lock()
	n.list = list
	n.mu.Unlock()
	local := n.list.LocalNode()
	n.addr = net.JoinHostPort(local.Addr.String(), strconv.Itoa(int(local.Port)))
	n.pump.Add(1)
	go func() { defer n.pump.Done(); n.run() }()
	if err := n.join(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) memberlistConfig() (*memberlist.Config, error) {
	host, port, err := splitAddr(n.cfg.BindAddr)
	if err != nil {
		return nil, fmt.Errorf("gossip: address to bind: %w", err)
	}
	mc := memberlist.DefaultLANConfig()
	if n.loopback() {
		mc = memberlist.DefaultLocalConfig()
	}
	meta, err := json.Marshal(peer{Role: n.cfg.Role, Meta: n.cfg.Meta})
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if len(meta) > maxMeta {
		return nil, fmt.Errorf("gossip: run, version and address take %d bytes, %d fit: shorten the run's name", len(meta), maxMeta)
	}
	ip, err := resolve(host)
	if err != nil {
		return nil, fmt.Errorf("gossip: address to bind: %w", err)
	}
	mc.Name, mc.BindAddr, mc.BindPort, mc.AdvertisePort = n.cfg.Name, ip, port, port
	if err := advertise(mc, n.cfg.AdvertiseAddr); err != nil {
		return nil, err
	}
	mc.Label, mc.SecretKey = n.cfg.Label, n.cfg.Key
	mc.ProbeInterval, mc.ProbeTimeout = probeEvery, probeEvery/2
	mc.TCPTimeout = tcpTimeout
	// A suspect has 1.5 s to object, whether or not others suspect it too: memberlist's own 9 s for a lone suspicion are longer
	// than a failure may take, and a false alarm is only a hint.
	mc.SuspicionMult, mc.SuspicionMaxTimeoutMult = 3, 1
	mc.DeadNodeReclaimTime = time.Second // a worker that is started again under its name need not wait for the old one's funeral
	d := &delegate{node: n, meta: meta}
	mc.Delegate, mc.Events, mc.Merge, mc.Alive = d, d, d, d
	mc.Logger = log.New(&logWriter{n.cfg.Log}, "", 0)
	return mc, nil
}

// advertise sets what others dial.
func advertise(mc *memberlist.Config, addr string) error {
	if addr == "" {
		return nil
	}
	host, port := addr, mc.BindPort
	if h, p, err := splitAddr(addr); err == nil {
		host, port = h, p
	}
	ip, err := resolve(host)
	if err != nil {
		return fmt.Errorf("gossip: address to advertise: %w", err)
	}
	mc.AdvertiseAddr, mc.AdvertisePort = ip, port
	return nil
}

// resolve turns a host name into an address, which is what memberlist wants.
func resolve(host string) (string, error) {
	if host == "" {
		return "0.0.0.0", nil
	}
	if net.ParseIP(host) != nil {
		return host, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), tcpTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

// loopback says whether all addresses known at the start are this machine's own.
func (n *Node) loopback() bool {
	for _, addr := range append([]string{n.cfg.BindAddr}, n.cfg.Join...) {
		host, _, err := net.SplitHostPort(addr)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

// join asks the members to begin with, one after the other, until one takes this node in.
func (n *Node) join() error {
	if len(n.cfg.Join) == 0 {
		return nil
	}
	var errs []error
	for _, addr := range n.cfg.Join {
		_, err := n.list.Join([]string{addr})
		if err == nil {
			return nil
		}
		errs = append(errs, n.explain(addr, err))
	}
	return errors.Join(errs...)
}

// explain finds out why a join failed: memberlist gives a text only.
func (n *Node) explain(addr string, err error) error {
	if other := n.rival(); other != "" {
		return fmt.Errorf("gossip: %w: %s in the cluster at %s; stop it first, or start this one as a cluster of its own", ErrTwo, other, addr)
	}
	conn, dialErr := net.DialTimeout("tcp", addr, tcpTimeout)
	if dialErr != nil {
		return fmt.Errorf("gossip: %w at %s: is the coordinator running there, and is this its gossip address? (%w)", ErrNobody, addr, dialErr)
	}
	_ = conn.Close() // nothing was sent: a failure tells nothing
	return fmt.Errorf("gossip: %w by %s: somebody listens there, but with another gossip key, another cluster name, or it is no gossip port (%w)", ErrNotAccepted, addr, err)
}

// Addr is HOST:PORT that others join at.
func (n *Node) Addr() string { return n.addr }

// Events tells of members that come and go, in order. Nothing is lost while the reader is slow. It is closed by Close.
func (n *Node) Events() <-chan Event { return n.events }

// Members lists the names of the other members that live, sorted.
func (n *Node) Members() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := make([]string, 0, len(n.peers))
	for name := range n.peers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Coordinator waits until the cluster has a coordinator and returns what it says of itself; Meta.RPC is where to attach. When ctx
// ends first the error wraps ErrNoCoordinator and names the members that were seen.
func (n *Node) Coordinator(ctx context.Context) (Meta, error) {
	for {
		n.mu.Lock()
		meta, found := n.coordinator()
		changed := n.changed
		n.mu.Unlock()
		if found {
			return meta, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Meta{}, fmt.Errorf("gossip: %w in the cluster joined at %s (members seen: %s): %w",
				ErrNoCoordinator, strings.Join(n.cfg.Join, ", "), orNone(n.Members()), context.Cause(ctx))
		case <-n.quit:
			return Meta{}, fmt.Errorf("gossip: %w was found before this node was closed", ErrNoCoordinator)
		}
	}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// coordinator finds the newest coordinator among the peers; n.mu is held. One that died may be among them for a while yet.
func (n *Node) coordinator() (Meta, bool) {
	var newest Meta
	found := false
	for _, p := range n.peers {
		if p.Role == Coordinator && (!found || p.Epoch > newest.Epoch) {
			newest, found = p.Meta, true
		}
	}
	return newest, found
}

// HasCoordinator says whether this node knows of a coordinator that lives.
func (n *Node) HasCoordinator() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, found := n.coordinator()
	return found
}

// Reach asks members, each at HOST:PORT, to take this node in, beside those that it knows. It returns how many did; one that no longer
// listens costs a connection's timeout at most.
func (n *Node) Reach(addrs []string) int {
	n.mu.Lock()
	list := n.list
	n.mu.Unlock()
	reached, _ := list.Join(addrs) // the count is all there is to know: who is gone does not matter
	return reached
}

// Close says goodbye, shuts the sockets and waits for the events' goroutine. It may be called repeatedly.
func (n *Node) Close() error {
	n.once.Do(func() {
		n.sayGoodbye()
		// A goodbye that nobody hears is found out by probing: not worth an error.
		if err := n.list.Leave(leaveTimeout); err != nil && n.cfg.Log != nil {
			n.cfg.Log.Debug("gossip: leaving", "error", err)
		}
		if err := n.list.Shutdown(); err != nil {
			n.err = fmt.Errorf("gossip: %w", err)
		}
		close(n.quit)
		n.pump.Wait() //bounded: run has heard quit
	})
	return n.err
}

// run hands queued events to the reader.
func (n *Node) run() {
	defer close(n.events)
	for {
		n.mu.Lock()
		changed := n.changed
		queue := n.queue
		n.queue = nil
		n.mu.Unlock()
		for _, ev := range queue {
			select {
			case n.events <- ev:
			case <-n.quit:
				return
			}
		}
		select {
		case <-changed:
		case <-n.quit:
			return
		}
	}
}

// note changes the peers and queues an event. It never blocks: memberlist calls it with its own lock held.
func (n *Node) note(kind Kind, name string, p peer) {
	if name == n.cfg.Name {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if kind == Left || kind == Dead {
		delete(n.peers, name)
	} else {
		n.peers[name] = p
		delete(n.leaving, name)
	}
	n.queue = append(n.queue, Event{Kind: kind, Name: name, Role: p.Role})
	n.wake()
}

// wake tells all who wait that something has changed; n.mu is held.
func (n *Node) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}
