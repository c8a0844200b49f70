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

func (d *delegate) NodeMeta(int) []byte                  { return d.meta }
func (d *delegate) GetBroadcasts(int, int) [][]byte      { return nil }
func (d *delegate) LocalState(bool) []byte               { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)        {}
func (d *delegate) NotifyJoin(m *memberlist.Node)        { d.node.see(Joined, m) }
func (d *delegate) NotifyUpdate(m *memberlist.Node)      { d.node.see(Updated, m) }
func (d *delegate) NotifyAlive(m *memberlist.Node) error { return d.node.admit([]*memberlist.Node{m}) }

// NotifyMerge looks at a whole cluster before it becomes one with this.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error { return d.node.admit(peers) }

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

// admit refuses strangers and second coordinators. A coordinator of a later epoch of the same run is the successor of one that has died,
// whether or not that has been noticed yet; if it has not died, the journal and the workers keep it from deciding anything more.
func (n *Node) admit(nodes []*memberlist.Node) error {
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
		if other := n.otherCoordinator(m.Name, p.Meta); other != "" {
			n.mu.Lock()
			n.second = m.Name
			n.mu.Unlock()
			return fmt.Errorf("gossip: %w: %s and %s", ErrTwo, other, m.Name)
		}
	}
	return nil
}

// otherCoordinator names the coordinator that stands in the way of the given one; empty if there is none.
func (n *Node) otherCoordinator(name string, m Meta) string {
	successor := func(to Meta) bool { return to.Run == m.Run && to.Epoch != m.Epoch }
	if n.cfg.Role == Coordinator {
		if successor(n.cfg.Meta) {
			return ""
		}
		return n.cfg.Name
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for other, p := range n.peers {
		if p.Role == Coordinator && other != name && !successor(p.Meta) {
			return other
		}
	}
	return ""
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
