package chaos

import (
	"fmt"
	"slices"
	"strings"
)

// Kind is a kind of fault.
type Kind string

// The kinds. What is said of a worker's process holds for one worker, drawn by the schedule.
const (
	Kill            Kind = "kill"             // kill -9; its kernel tells its peers
	KillGroup       Kind = "kill-group"       // the same, with all that it has started
	Leave           Kind = "leave"            // SIGTERM, after which it has to end in order
	Pause           Kind = "pause"            // stopped, and continued some seconds later
	Freeze          Kind = "freeze"           // stopped, and killed much later
	Join            Kind = "join"             // a worker more
	Partition       Kind = "partition"        // its link is down for some seconds, in silence
	HalfOpen        Kind = "half-open"        // killed behind a link that is down: its connections stay open at the other ends
	OneWay          Kind = "one-way"          // what it sends is lost, what it is sent arrives
	Delay           Kind = "delay"            // tens of milliseconds more each way
	Loss            Kind = "loss"             // packets are lost
	Slow            Kind = "slow"             // a few Mbit/s
	DiskFull        Kind = "disk-full"        // of the coordinator's folder
	CoordinatorKill Kind = "coordinator-kill" // kill -9, and started again on the same address
	CoordinatorMove Kind = "coordinator-move" // and started again on another one
	CoordinatorBoth Kind = "coordinator-both" // killed together with a worker
	SecondStart     Kind = "second-start"     // a second coordinator for the same folder, which must refuse
	ClockJump       Kind = "clock-jump"       // of the coordinator's clock, forth or back
	NoWorkers       Kind = "no-workers"       // all workers killed at once
	AllDead         Kind = "all-dead"         // and the coordinator too
)

// need is what a kind cannot do without.
type need uint8

const (
	needLinks    need = 1 << iota // links that can be impaired
	needDisk                      // a small file system of its own for the coordinator's folder
	takesWorker                   // a worker is gone or as good as gone, so another one has to be there
	losesWorker                   // the worker's process ends
	hitsWorker                    // it happens to one worker
	takesControl                  // the coordinator is away, or everybody; nothing else happens meanwhile
)

type kindFacts struct {
	kind Kind
	need need
}

var facts = []kindFacts{
	{Kill, hitsWorker | takesWorker | losesWorker},
	{KillGroup, hitsWorker | takesWorker | losesWorker},
	{Leave, hitsWorker | takesWorker | losesWorker},
	{Pause, hitsWorker | takesWorker},
	{Freeze, hitsWorker | takesWorker | losesWorker},
	{Join, 0},
	{Partition, hitsWorker | takesWorker | needLinks},
	{HalfOpen, hitsWorker | takesWorker | losesWorker | needLinks},
	{OneWay, hitsWorker | takesWorker | needLinks},
	{Delay, hitsWorker | needLinks},
	{Loss, hitsWorker | needLinks},
	{Slow, hitsWorker | needLinks},
	{DiskFull, needDisk},
	{CoordinatorKill, takesControl},
	{CoordinatorMove, takesControl},
	{CoordinatorBoth, takesControl | hitsWorker | takesWorker | losesWorker},
	{SecondStart, takesControl},
	{ClockJump, 0},
	{NoWorkers, takesControl},
	{AllDead, takesControl},
}

// Kinds lists them all.
func Kinds() []Kind {
	out := make([]Kind, len(facts))
	for i, f := range facts {
		out[i] = f.kind
	}
	return out
}

// is says whether a kind has any of the needs.
func (k Kind) is(n need) bool {
	i := slices.IndexFunc(facts, func(f kindFacts) bool { return f.kind == k })
	return i >= 0 && facts[i].need&n != 0
}

// ParseKinds reads names of kinds; none stands for all.
func ParseKinds(names []string) ([]Kind, error) {
	if len(names) == 0 {
		return Kinds(), nil
	}
	var out []Kind
	for _, n := range names {
		k := Kind(strings.TrimSpace(n))
		if !slices.Contains(Kinds(), k) {
			return nil, fmt.Errorf("%q is not a kind of fault: they are %v", n, Kinds())
		}
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out, nil
}
