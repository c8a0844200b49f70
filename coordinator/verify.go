package coordinator

import "slices"

// verification compares what workers have computed.
type verification struct {
	verified []VerifiedEntry // rising
	dispute  *Dispute        // not settled yet
	restores bool            // the next plan goes back to a verified state
}

// newest is the newest verified state.
func (v *verification) newest() VerifiedEntry { return v.verified[len(v.verified)-1] }

// Dispute is a difference that could not be decided at once: what each worker had computed. The steps are done again to decide it.
type Dispute struct {
	Step   uint64  `json:"step"`
	Claims []Claim `json:"claims,omitempty"`
}

// Claim is what a worker computed.
type Claim struct {
	Worker string `json:"worker"`
	Value  string `json:"value"`
}

func (m *Machine) onStateHash(w *member, h StateHash) {}
func (m *Machine) onAudit(w *member, a Audit)         {}
func (m *Machine) rollBack()                          {}

// forget drops what was found of states after a step that all go back to.
func (m *Machine) forget(step uint64) {
	m.checkpoints = slices.DeleteFunc(m.checkpoints, func(s Stored) bool { return s.Step > step })
	m.verify.verified = slices.DeleteFunc(m.verify.verified, func(v VerifiedEntry) bool { return v.Step > step })
}

// sameHashes compares the states at the window's end; it ends the run if they differ.
func (m *Machine) sameHashes(at uint64) bool {
	e := ending{kind: endMismatch, step: at}
	same := true
	for _, w := range m.ring() {
		if w.hash == "" || w.behind {
			continue
		}
		e.workers, e.hashes = append(e.workers, w.name), append(e.hashes, w.hash)
		same = same && w.hash == e.hashes[0]
	}
	if !same {
		m.end(e)
		return false
	}
	if len(e.hashes) > 0 {
		m.hash, m.hashStep = e.hashes[0], at
	}
	return true
}
