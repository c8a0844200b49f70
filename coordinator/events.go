package coordinator

import "time"

// Event is something that happened: the input of Machine.Step. Events that name a worker which is not attached are ignored, so
// late and repeated ones do no harm.
type Event interface{ event() }

// Tick carries the time. Deadlines move with ticks alone; send one every quarter of a second or so. A gap longer than a second
// (this process was stopped, the clock was set) counts as one second, so that a pause of the coordinator kills no worker.
type Tick struct{ Now time.Time }

// Hello asks for a place in the run. Stream is the caller's handle for the connection, so that two connections that claim one
// name can be told apart.
type Hello struct {
	Stream   uint64
	Worker   string
	Version  string
	Settings map[string]string // only those given by hand
}

// Ready says that a worker can begin.
type Ready struct {
	Worker          string
	RingAddress     string
	DataFingerprint string
	DataSummary     string // for people
	Numerics        string
	Engine          string // for people
}

// StepReport follows every committed step of a worker.
type StepReport struct {
	Worker    string
	Step      uint64 // committed steps, this one included
	Loss      float64
	Images    uint64
	Correct1  uint64
	LR        float64
	Start     time.Time
	End       time.Time
	Tail      time.Duration // after its last backward pass until the last bucket was there
	StateHash string        // at the end of a window only
}

// Measured tells what a worker found of its links, as the plan had asked. It comes before the worker's first step.
type Measured struct {
	Worker  string
	Traffic Traffic
}

// EvalReport holds a worker's share of an evaluation; LossSum is in units of 2^-32.
type EvalReport struct {
	Worker                     string
	Step                       uint64
	Images, Correct1, Correct5 uint64
	LossSum                    int64
}

// Cause tells why a worker is out of the step in flight.
type Cause uint8

// The causes, as in the control protocol.
const (
	CauseUnspecified Cause = iota
	CausePaused            // asked to by the coordinator
	CauseRing              // a neighbour failed or was too late
	CauseNonFinite         // a gradient was NaN or infinite
	CauseLocal             // data, engine or memory of this worker
)

// Aborted says that a worker is out of any step and holds the state of Step committed steps.
type Aborted struct {
	Worker string
	Step   uint64
	Cause  Cause
	Reason string
	Peer   string // the worker that the failure was seen on; for CauseNonFinite the worker itself, when it knows the replica
}

// Heartbeat says that a worker lives. Every other event of a worker says so too.
type Heartbeat struct{ Worker string }

// Left is the last word of a worker that was told to stop by someone else.
type Left struct {
	Worker string
	Reason string
}

// StreamBroken says that a worker's connection ended without a Left.
type StreamBroken struct {
	Worker string
	Reason string
}

// GossipDead says that the gossip holds a worker for dead. It is a hint: alone it changes nothing as long as heartbeats come.
type GossipDead struct{ Worker string }

// StateArrived says that a worker's state was received whole and verified, and waits for Store.
type StateArrived struct {
	Worker string
	Step   uint64
	Hash   string
}

// StateLost says that a worker's state was announced but did not arrive whole.
type StateLost struct {
	Worker string
	Step   uint64
	Reason string
}

// Stored says that the state of Step is on disk.
type Stored struct {
	Step uint64
	Path string
}

// StoreFailed says that the state of Step could not be written.
type StoreFailed struct {
	Step   uint64
	Reason string
}

// Interrupt asks to end the run in good order, with a checkpoint.
type Interrupt struct{ Reason string }

func (Tick) event()         {}
func (Hello) event()        {}
func (Ready) event()        {}
func (StepReport) event()   {}
func (EvalReport) event()   {}
func (Measured) event()     {}
func (Aborted) event()      {}
func (Heartbeat) event()    {}
func (Left) event()         {}
func (StreamBroken) event() {}
func (GossipDead) event()   {}
func (StateArrived) event() {}
func (StateLost) event()    {}
func (Stored) event()       {}
func (StoreFailed) event()  {}
func (Interrupt) event()    {}

// Action is something to do: the output of Machine.Step.
type Action interface{ action() }

// Welcome accepts a worker: bind the stream to its name and tell it the settings.
type Welcome struct {
	Stream uint64
	Worker string
}

// Refuse turns a worker away. If it had been welcomed, it is out of the run again.
type Refuse struct {
	Stream uint64
	Worker string
	Kind   Refusal
	Reason string // names the difference and the mend
}

// Refusal tells what a refusal is about.
type Refusal string

// The kinds of refusal.
const (
	RefusedName     Refusal = "name"
	RefusedVersion  Refusal = "version"
	RefusedSettings Refusal = "settings"
	RefusedData     Refusal = "data"
	RefusedNumerics Refusal = "numerics"
	RefusedAddress  Refusal = "address"
	RefusedFull     Refusal = "full"
	RefusedOver     Refusal = "over"
)

// Member is a worker's place in the ring.
type Member struct {
	Worker      string
	RingAddress string
}

// Plan is a numbered membership and a window of steps [FirstStep, UntilStep), numbered from 0. A window may be empty when only an
// evaluation is left to do.
type Plan struct {
	Generation      uint64
	Sequence        uint64
	Ring            []Member
	ReplicaHost     []int // ReplicaHost[r] is the position in Ring of the worker that hosts replica r
	FirstStep       uint64
	UntilStep       uint64
	LearningRates   []LRSpan
	CheckpointAfter []uint64 // numbers of committed steps after which Ring[0] sends its state, rising
	Evaluate        bool     // once UntilStep steps are committed
	Group           int      // workers in a group of the ring, which are runs of Ring; 1 for a flat one
	Measure         bool     // the links, before the first step
}

// Publish sends a plan to every worker of its ring.
type Publish struct{ Plan Plan }

// Pause tells a worker to abort the step in flight and to answer with Aborted.
type Pause struct {
	Worker string
	Reason string
}

// SendState asks a worker for its state of that many committed steps; answer with StateArrived or StateLost.
type SendState struct {
	Worker string
	Step   uint64
}

// Store writes the state that arrived from Worker as a checkpoint, beside training; answer with Stored or StoreFailed.
// Schedule is the schedule's state to be stored with it.
type Store struct {
	Worker   string
	Step     uint64
	Hash     string
	Schedule []byte
}

// Discard says that a state that arrived is not needed: that step is stored already (in Path), or being stored.
type Discard struct {
	Worker string
	Step   uint64
	Path   string
}

// Stop ends a worker's part in the run.
type Stop struct {
	Worker string
	Failed bool
	Reason string
}

// Progress is what people see after every step, and when something happens (Event is set then).
type Progress struct {
	Epoch           float64 // of the training split, fractional
	Step            uint64  // committed steps
	Total           uint64
	Loss            float64 // of the newest step
	Top1            float64 // share of the newest step's images, 0 to 1
	LR              float64
	ImagesPerSecond float64       // smoothed over the last steps
	Tail            time.Duration // of the newest step that all workers have committed, see StepDone
	Remaining       time.Duration
	Warning         bool   // Event is something to look into
	Event           string // a line for people; empty for an ordinary step
}

// Evaluation is a whole evaluation, over all workers' shares.
type Evaluation struct {
	Step                       uint64
	Images, Correct1, Correct5 uint64
	Loss                       float64 // mean cross-entropy
}

// Top1 is the share of images whose best guess was right, 0 without images.
func (e Evaluation) Top1() float64 {
	if e.Images == 0 {
		return 0
	}
	return float64(e.Correct1) / float64(e.Images)
}

// Report carries Progress; Evaluation is set when one was just completed.
type Report struct {
	Progress   Progress
	Evaluation *Evaluation
}

// StepDone says that every worker has committed a step, which lasted from the first worker's start to the last one's end.
type StepDone struct {
	Step       uint64 // committed steps, this one included
	Start, End time.Time
	// Tail is what of the all-reduce no computing hid: the least of the workers' tails, for the others also waited until the slowest
	// had computed.
	Tail time.Duration
}

// Finish is the last action: the run is over. Err is nil for a run that did all its steps, else one of this package's errors.
type Finish struct {
	Result Result
	Err    error
}

// Result is what a run came to.
type Result struct {
	Step            uint64 // committed steps that are saved in Path or, without a store, that were done
	Hash            string // of the state at Step; empty if unknown
	Loss            float64
	ImagesPerSecond float64       // over all training but the first step; evaluations do not count
	Tail            time.Duration // a step's, likewise
	Evaluation      *Evaluation   // the newest, nil without any
	Path            string        // newest checkpoint, empty without any
}

func (Welcome) action()   {}
func (Refuse) action()    {}
func (Publish) action()   {}
func (Pause) action()     {}
func (SendState) action() {}
func (Store) action()     {}
func (Discard) action()   {}
func (Stop) action()      {}
func (Report) action()    {}
func (StepDone) action()  {}
func (Finish) action()    {}
