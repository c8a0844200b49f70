package gossip

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist calls back. None of its methods block.
type delegate struct {
	node *Node
	meta []byte
}

// parseMeta reads what a node says about itself. memberlist bounds it to maxMeta bytes.
func parseMeta(b []byte) (peer, error) {
	var p peer
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("gossip: node metadata: %w", err)
	}
	if p.Role != Coordinator && p.Role != Worker {
		return p, fmt.Errorf("gossip: node metadata: role %.20q is unknown", p.Role)
	}
	return p, nil
}

func (d *delegate) NodeMeta(int) []byte             { return d.meta }
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}
func (d *delegate) NotifyJoin(m *memberlist.Node)   { d.node.see(Joined, m) }
func (d *delegate) NotifyUpdate(m *memberlist.Node) { d.node.see(Updated, m) }

// NotifyAlive looks at what is told of one node. An error leaves the word unheard.
func (d *delegate) NotifyAlive(m *memberlist.Node) error {
	return d.node.admit([]*memberlist.Node{m}, func(other, m Meta) bool { return m.Epoch > other.Epoch })
}

// NotifyMerge looks at a whole cluster before it becomes one with this. That may still hold an earlier coordinator for alive.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error {
	return d.node.admit(peers, func(other, m Meta) bool { return m.Epoch != other.Epoch })
}

// The messages of our own: a word, and the name of who sends it.
const (
	goodbye = 'b' // "I leave"
	heard   = 'h' // "I know that you leave"
)

// NotifyMsg hears goodbyes and answers them.
func (d *delegate) NotifyMsg(msg []byte) {
	if len(msg) < 2 {
		return
	}
	switch name := string(msg[1:]); msg[0] {
	case goodbye:
		if at, known := d.node.hearGoodbye(name); known {
			d.node.tell(at, heard)
		}
	case heard:
		d.node.crossOff(name)
	}
}

// NotifyLeave tells a goodbye from a death. memberlist knows the difference but keeps it to itself: the State it hands over here
// is never set. So whoever leaves says so first, in a message of ours, and waits for the answer, since memberlist handles what
// waits in its queue newest first. One that nobody answered in time counts as dead, which does no harm.
func (d *delegate) NotifyLeave(m *memberlist.Node) {
	kind := Dead
	if d.node.said(m.Name) {
		kind = Left
	}
	d.node.see(kind, m)
}

// said says whether a node has said goodbye, and forgets it.
func (n *Node) said(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	bye := n.leaving[name]
	delete(n.leaving, name)
	return bye
}

// hearGoodbye notes that a peer leaves and says where to answer; a stranger's goodbye means nothing.
func (n *Node) hearGoodbye(name string) (at memberlist.Address, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, known := n.peers[name]
	if known {
		n.leaving[name] = true
	}
	return p.at, known
}

// crossOff notes that a peer has heard this node's goodbye.
func (n *Node) crossOff(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unheard[name] {
		delete(n.unheard, name)
		n.wake()
	}
}

// sayGoodbye tells all members, again and again until each has answered or the time is up: packets get lost.
func (n *Node) sayGoodbye() {
	n.mu.Lock()
	for name := range n.peers {
		n.unheard[name] = true
	}
	n.mu.Unlock()
	late := time.NewTimer(leaveTimeout)
	defer late.Stop()
	again := time.NewTicker(goodbyeEvery)
	defer again.Stop()
	for {
		to, changed := n.notHeard()
		if len(to) == 0 {
			return
		}
		for _, at := range to {
			n.tell(at, goodbye)
		}
		select {
		case <-changed:
		case <-again.C:
		case <-late.C:
			return
		}
	}
}

// notHeard lists the living members that have not answered this node's goodbye, and gives the channel that tells of changes.
func (n *Node) notHeard() (at []memberlist.Address, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.unheard {
		if p, lives := n.peers[name]; lives {
			at = append(at, p.at)
		}
	}
	return at, n.changed
}

// tell sends one packet to one member. n.mu must be free: memberlist takes locks of its own, with which it calls back.
func (n *Node) tell(at memberlist.Address, word byte) {
	n.mu.Lock()
	list := n.list
	n.mu.Unlock()
	if list == nil { // still starting: memberlist hears others before Create returns
		return
	}
	if err := list.SendToAddress(at, append([]byte{word}, n.cfg.Name...)); err != nil && n.cfg.Log != nil {
		n.cfg.Log.Debug("gossip: a word of our own", "to", at.Name, "error", err)
	}
}

// see notes a change. Metadata that does not parse was kept out by admit.
func (n *Node) see(kind Kind, m *memberlist.Node) {
	p, err := parseMeta(m.Meta)
	if err != nil && n.cfg.Log != nil {
		n.cfg.Log.Debug("gossip: strange member", "name", m.Name, "error", err)
	}
	p.at = m.FullAddress()
	n.note(kind, m.Name, p)
}

// admit refuses strangers and second coordinators. A coordinator of the same run that goes with the one known here is none: the
// successor of one that has died, whether or not that has been noticed yet. Should it live still, then the journal and the workers keep
// it from deciding anything more.
func (n *Node) admit(nodes []*memberlist.Node, goes func(other, m Meta) bool) error {
	for _, m := range nodes {
		if m.State != memberlist.StateAlive || m.Name == n.cfg.Name {
			continue
		}
		p, err := parseMeta(m.Meta)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		if p.Role != Coordinator {
			continue
		}
		other, known := n.otherCoordinator(m.Name)
		if !known || other.Run == p.Run && goes(other.Meta, p.Meta) {
			continue
		}
		n.mu.Lock()
		n.second = m.Name
		n.mu.Unlock()
		return fmt.Errorf("gossip: %w: %s (%d of run %s), and %s (%d of run %s)", ErrTwo, other.at.Name, other.Epoch, other.Run, m.Name, p.Epoch, p.Run)
	}
	return nil
}

// otherCoordinator gives the newest coordinator that is not the named one.
func (n *Node) otherCoordinator(name string) (newest peer, known bool) {
	if n.cfg.Role == Coordinator {
		return peer{Role: Coordinator, Meta: n.cfg.Meta, at: memberlist.Address{Name: n.cfg.Name}}, true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for other, p := range n.peers {
		if p.Role == Coordinator && other != name && (!known || p.Epoch > newest.Epoch) {
			newest, known = p, true
		}
	}
	return newest, known
}

// rival names the coordinator that kept this node out of a cluster; empty if that was not the reason.
func (n *Node) rival() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.second
}

// logWriter sends memberlist's lines to slog.
type logWriter struct{ log *slog.Logger }

func (w *logWriter) Write(line []byte) (int, error) {
	if w.log != nil {
		w.log.Debug(strings.TrimSpace(string(line)))
	}
	return len(line), nil
}
