package coordinator

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// maxName bounds a worker's name: it stands in every message and every log line.
const maxName = 128

// onHello gives a place to a worker, or says why not.
func (m *Machine) onHello(h Hello) {
	if old := m.find(h.Worker); old != nil && m.wasHere(h) {
		m.lose(old, "it attached anew") // its old connection is dead, and nobody has told us
	}
	kind, reason := m.judge(h)
	if m.phase == over { // a fixed crew that has lost it
		m.emit(Refuse{h.Stream, h.Worker, RefusedOver, fmt.Sprintf("run %s is over", m.cfg.Run)})
		return
	}
	if reason != "" {
		m.refuse(&member{name: h.Worker, stream: h.Stream}, kind, reason)
		return
	}
	if m.wasHere(h) && h.Attached.Generation < 1<<62 {
		m.highest = max(m.highest, h.Attached.Generation) // a journal may have lost its end
	}
	w := &member{name: h.Worker, stream: h.Stream, seen: m.now}
	i, _ := m.search(h.Worker)
	m.members = slices.Insert(m.members, i, w)
	back := m.phase == reattaching && m.comesBack(w, h)
	m.emit(Welcome{Stream: h.Stream, Worker: h.Worker, Epoch: m.cfg.Epoch, PullState: m.phase == gathering, Reattached: back})
	m.checkReattaching()
}

// wasHere says whether a worker has been in this run.
func (m *Machine) wasHere(h Hello) bool { return h.Attached != nil && h.Attached.Run == m.cfg.Run }

// judge says why a worker is refused, if it is.
func (m *Machine) judge(h Hello) (Refusal, string) {
	if bad := strings.IndexFunc(h.Worker, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd }); h.Worker == "" || len(h.Worker) > maxName || bad >= 0 {
		return RefusedName, fmt.Sprintf("%.*q is no name for a worker: want 1 to %d characters without spaces", maxName, h.Worker, maxName)
	}
	if h.Version != m.cfg.Version {
		return RefusedVersion, fmt.Sprintf("this worker is version %s, run %s is version %s: install the same one", orNone(h.Version), m.cfg.Run, orNone(m.cfg.Version))
	}
	if diff := m.settingsDifference(h.Settings); diff != "" {
		return RefusedSettings, diff
	}
	if why, removed := m.removed[h.Worker]; removed {
		return RefusedRemoved, fmt.Sprintf("worker %s was removed from run %s for good: %s", h.Worker, m.cfg.Run, why)
	}
	if m.wasHere(h) && h.Attached.Epoch > m.cfg.Epoch {
		return RefusedEpoch, fmt.Sprintf("this worker follows coordinator %d of run %s, this is coordinator %d: end this process, another has taken its place",
			h.Attached.Epoch, m.cfg.Run, m.cfg.Epoch)
	}
	if m.find(h.Worker) != nil {
		return RefusedName, fmt.Sprintf("run %s has a worker %s already: give this one another --name", m.cfg.Run, h.Worker)
	}
	if m.phase == saving && m.ending.kind != endGather {
		return RefusedOver, fmt.Sprintf("run %s is about to end", m.cfg.Run)
	}
	if len(m.members) >= maxWorkers {
		return RefusedFull, fmt.Sprintf("run %s already has %d workers", m.cfg.Run, maxWorkers)
	}
	return "", ""
}

// settingsDifference names every setting that was given to the worker by hand and is another in the run.
func (m *Machine) settingsDifference(given map[string]string) string {
	var diffs []string
	for _, key := range settingKeys(given) {
		if want, known := m.cfg.Settings[key]; known && want != given[key] {
			diffs = append(diffs, fmt.Sprintf("--%s is %s here and %s in the run", key, orNone(given[key]), orNone(want)))
		}
	}
	if len(diffs) == 0 {
		return ""
	}
	return fmt.Sprintf("settings differ from run %s: %s; leave them out, the worker takes the run's", m.cfg.Run, strings.Join(diffs, ", "))
}

func orNone(text string) string {
	if text == "" {
		return "(none)"
	}
	return text
}

// onReady compares what a worker has loaded with the others'. The last one that was waited for begins the run; later it is a spare.
func (m *Machine) onReady(w *member, r Ready) {
	if w.ready != nil {
		return
	}
	if kind, reason := m.judgeReady(r); reason != "" {
		m.drop(w)
		m.refuse(w, kind, reason)
		return
	}
	w.ready, m.unsettled = &r, true
	if m.phase != gathering {
		m.tell(false, "worker %s is ready: %s", w.name, orNone(r.Engine))
		return
	}
	m.tell(false, "worker %s is ready: %s (%d of %d)", w.name, orNone(r.Engine), m.countReady(), m.enough())
	if m.countReady() >= m.enough() {
		m.begin()
	}
}

// enough is how many workers training begins with. A run that has begun once is in a hurry; but to decide who was wrong takes two, who are
// worth a short wait.
func (m *Machine) enough() int {
	if m.verify.dispute != nil && m.now-m.since <= m.cfg.ReattachFirst {
		return min(2, m.cfg.Replicas)
	}
	if m.plan.Sequence > 0 {
		return 1
	}
	return m.cfg.MinWorkers
}

func (m *Machine) judgeReady(r Ready) (Refusal, string) {
	host, port, err := net.SplitHostPort(r.RingAddress)
	if err != nil || host == "" || port == "" {
		return RefusedAddress, fmt.Sprintf("ring address %.200q is not HOST:PORT", r.RingAddress)
	}
	for _, w := range m.members {
		if w.ready != nil && w.ready.RingAddress == r.RingAddress {
			return RefusedAddress, fmt.Sprintf("ring address %s is also worker %s's: give each worker an address of its own", r.RingAddress, w.name)
		}
	}
	want, who := m.reference()
	if want.DataFingerprint != "" && r.DataFingerprint != want.DataFingerprint {
		return RefusedData, fmt.Sprintf("this worker has other data (%s) than %s (%s), fingerprints %s and %s: point --data at the same set",
			orNone(r.DataSummary), who, orNone(want.DataSummary), shortHash(orNone(r.DataFingerprint)), shortHash(want.DataFingerprint))
	}
	if want.Numerics != "" && r.Numerics != want.Numerics {
		return RefusedNumerics, fmt.Sprintf("this worker computes as %s, %s as %s: their results would differ in the last bits; use the same --engine and --precision everywhere",
			orNone(r.Numerics), who, want.Numerics)
	}
	return "", ""
}

// reference is what a worker must agree with, and who says so: the run, or else the first ready worker.
func (m *Machine) reference() (Reference, string) {
	ref, who := m.ref, "run "+m.cfg.Run
	for _, w := range m.members {
		if w.ready == nil {
			continue
		}
		if ref.DataFingerprint == "" {
			ref.DataFingerprint, ref.DataSummary, who = w.ready.DataFingerprint, w.ready.DataSummary, "worker "+w.name
		}
		if ref.Numerics == "" {
			ref.Numerics, who = w.ready.Numerics, "worker "+w.name
		}
	}
	return ref, who
}

// settleReference makes what the first workers agree on the run's, since every one of them may be gone one day.
func (m *Machine) settleReference() {
	ref, _ := m.reference()
	if ref == m.ref {
		return
	}
	m.ref = ref
	m.record(Entry{Reference: &ref})
}

// refuse turns a worker away; a fixed crew cannot do without it before the start.
func (m *Machine) refuse(w *member, kind Refusal, reason string) {
	m.emit(Refuse{w.stream, w.name, kind, reason})
	m.tell(true, "worker %s refused: %s", w.name, reason)
	if m.cfg.FixedCrew && m.phase == gathering && m.plan.Sequence == 0 && kind != RefusedFull && kind != RefusedName {
		m.ending = ending{kind: endRefused, worker: w.name, refusal: kind, how: reason}
		m.conclude()
	}
}

// checkGathering ends a run whose workers do not come.
func (m *Machine) checkGathering() {
	if m.countReady() >= m.enough() {
		m.begin()
		return
	}
	if m.now-m.since <= m.cfg.JoinTimeout {
		return
	}
	e := ending{kind: endMissing, ready: m.countReady(), want: m.enough()}
	for _, w := range m.members {
		if w.ready == nil {
			e.workers = append(e.workers, w.name)
		}
	}
	m.ending = e
	m.conclude()
}

func (m *Machine) countReady() int {
	n := 0
	for _, w := range m.members {
		if w.ready != nil {
			n++
		}
	}
	return n
}
