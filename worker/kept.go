package worker

import (
	"fmt"
	"slices"
	"sync"

	pb "github.com/lockstep-ml/lockstep/internal/proto/lockstep/v1"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
)

// keptStates are the states that a worker can go back to: the newest that all workers agreed on, and one that is still to be agreed on.
type keptStates struct {
	mu     sync.Mutex
	states []*snapshot.Snapshot // ascending by step; two at most
	free   *snapshot.Snapshot   // memory for the next
}

// room gives memory to copy a state into, nil if both places are taken.
func (k *keptStates) room(l snapshot.Lengths) *snapshot.Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.states) == 2 {
		return nil
	}
	if s := k.free; s != nil {
		k.free = nil
		return s
	}
	return snapshot.New(l)
}

// add keeps a state. The first one is held for agreed on until there is another.
func (k *keptStates) add(s *snapshot.Snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.states = append(k.states, s)
}

// agree makes a state the one to go back to. If it was not kept, an older one that has not been agreed on gives up its place to the next.
func (k *keptStates) agree(step uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := slices.IndexFunc(k.states, func(s *snapshot.Snapshot) bool { return s.Step == step })
	if at < 0 { // there was no room for it; what has never been agreed on in between would hold the room for ever
		if len(k.states) == 2 && k.states[1].Step < step {
			k.free, k.states = k.states[1], k.states[:1]
		}
		return
	}
	if at > 0 {
		k.free = k.states[0]
	}
	k.states = k.states[at:]
}

// rewind forgets what was kept after a state, and gives that state; nil if it is not here.
func (k *keptStates) rewind(step uint64) *snapshot.Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.states = slices.DeleteFunc(k.states, func(s *snapshot.Snapshot) bool { return s.Step > step })
	at := slices.IndexFunc(k.states, func(s *snapshot.Snapshot) bool { return s.Step == step })
	if at < 0 {
		return nil
	}
	return k.states[at]
}

func (k *keptStates) clear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.states = nil
}

// steps lists what there is to go back to.
func (k *keptStates) steps() []uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []uint64
	for _, s := range k.states {
		out = append(out, s.Step)
	}
	return out
}

// verify copies the state after a step that the plan wants compared. Its hash is for hashBeside, once the step is reported: the
// coordinator takes no word of a state that is further than the worker.
func (w *Worker) verify(step uint64) error {
	if w.behind.Load() {
		return nil
	}
	//bounded: a hash takes a moment and waits for nobody
	w.hashing.Wait() // the copy before: it has had a whole distance of steps
	s := w.kept.room(lengthsOf(w.job.Network))
	keep := s != nil
	if !keep {
		if w.scratch == nil {
			w.scratch = newSnapshot(w.job.Network)
		}
		s = w.scratch
	}
	if err := w.job.Engine.GetState(stateOf(s)); err != nil {
		return fmt.Errorf("reading the engine's state: %w", err)
	}
	s.Step = step
	if keep {
		w.kept.add(s)
	}
	w.unhashed = s
	return nil
}

// hashBeside hashes what verify has copied, beside training, and tells the coordinator.
func (w *Worker) hashBeside() {
	s := w.unhashed
	if s == nil {
		return
	}
	w.unhashed = nil
	w.hashing.Go(func() {
		w.out.put(&pb.WorkerMessage{Body: &pb.WorkerMessage_StateHash{StateHash: &pb.StateHash{Step: s.Step, Hash: s.Hash()}}})
	})
}

// goBack gives the engine the state that it has kept of the plan's first step.
func (w *Worker) goBack(step uint64) error {
	w.hashing.Wait() //bounded: a hash takes a moment and waits for nobody
	s := w.kept.rewind(step)
	if s == nil {
		return fmt.Errorf("the plan goes back to step %d, this worker has kept the states of %v", step, w.kept.steps())
	}
	w.log.Warn("going back", "step", step, "from", w.committed.Load())
	if w.job.States != nil {
		w.job.States.keep(nil) // states of steps that are done again
	}
	return w.adopt(s)
}

// auditOf is the replica whose values are digested at a step, -1 if this worker has no part in that.
func auditOf(p *pb.Plan, pl place, step uint64) int {
	if p.VerifyEvery == 0 || step%p.VerifyEvery != 0 {
		return -1
	}
	r := int(step / p.VerifyEvery % uint64(len(p.ReplicaHost)))
	host := int(p.ReplicaHost[r])
	if host == pl.rank {
		return r
	}
	for k := 1; k < len(p.Ring); k++ {
		at := (host + k) % len(p.Ring)
		if slices.Contains(p.ReplicaHost, uint32(at)) {
			if at == pl.rank {
				return r
			}
			return -1
		}
	}
	return -1
}
