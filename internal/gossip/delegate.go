package gossip

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

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

// NotifyMsg hears goodbyes, the only messages of our own.
func (d *delegate) NotifyMsg(name []byte) {
	d.node.mu.Lock()
	defer d.node.mu.Unlock()
	if _, known := d.node.peers[string(name)]; known {
		d.node.leaving[string(name)] = true
	}
}

// NotifyLeave tells a goodbye from a death. memberlist knows the difference but keeps it to itself: the State it hands over here
// is never set. So whoever leaves says so first, in a message of ours; if that is lost, it counts as dead, which does no harm.
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

// sayGoodbye tells all members, by one packet each.
func (n *Node) sayGoodbye() {
	for _, m := range n.list.Members() {
		if m.Name == n.cfg.Name {
			continue
		}
		if err := n.list.SendBestEffort(m, []byte(n.cfg.Name)); err != nil && n.cfg.Log != nil {
			n.cfg.Log.Debug("gossip: saying goodbye", "to", m.Name, "error", err)
		}
	}
}

// see notes a change. Metadata that does not parse was kept out by admit.
func (n *Node) see(kind Kind, m *memberlist.Node) {
	p, err := parseMeta(m.Meta)
	if err != nil && n.cfg.Log != nil {
		n.cfg.Log.Debug("gossip: strange member", "name", m.Name, "error", err)
	}
	n.note(kind, m.Name, p)
}

// admit refuses strangers and second coordinators.
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
		if other := n.otherCoordinator(m.Name); other != "" {
			n.mu.Lock()
			n.second = m.Name
			n.mu.Unlock()
			return fmt.Errorf("gossip: %w: %s and %s", ErrTwo, other, m.Name)
		}
	}
	return nil
}

// otherCoordinator names the cluster's coordinator unless it is the given node; empty if there is none.
func (n *Node) otherCoordinator(name string) string {
	if n.cfg.Role == Coordinator {
		return n.cfg.Name
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for other, p := range n.peers {
		if p.Role == Coordinator && other != name {
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
