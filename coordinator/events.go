package coordinator

import (
	"encoding/json"
	"time"
)

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
	Attached *Attachment       // of a worker that was in the run before; nil for a newcomer
}

// Attachment is what a worker that attaches again is in the middle of.
type Attachment struct {
	Run                  string
	Epoch                uint64 // newest it has heard of
	Generation, Sequence uint64 // of the plan it works on or last had; 0 if it never had one
	Running              bool   // the plan's window goes on; else the worker is out of any step
	Step                 uint64 // see Aborted
	Behind               bool
	Ready                Ready
}

// Ready says that a worker can begin.
type Ready struct {
	Worker          string
	RingAddress     string
	DataFingerprint string
	DataSummary     string // for people
	Numerics        string
	Engine          string // for people
	GossipAddress   string // where a coordinator that is started again finds it
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

	Generation, Sequence uint64
	Last                 bool          // the window ends here, be it early
	Behind               bool          // of a follower: received and kept, not yet applied
	Compute              time.Duration // of all its replicas, without waiting for data or ring
	Samples              []uint32      // see the control protocol
	DataWait             time.Duration // until its batches were ready
	Skipped              []Skipped     // among the images of its replicas
}

// Skipped is a damaged image that was passed over.
type Skipped struct {
	Sample int    // its index in its split
	By     int    // the index of the one that stands in for it, -1 for none
	Name   string // its path in the data set
}

// StateHash tells the hash of a worker's state, as the plan's VerifyEvery asks. It comes no earlier than the report of the step before, and
// before any report of a plan that goes back.
type StateHash struct {
	Worker string
	Step   uint64
	Hash   string
}

// Audit holds a digest of what a worker computed for one replica of step number Step.
type Audit struct {
	Worker     string
	Generation uint64
	Step       uint64
	Replica    int
	Digest     string
}

// CaughtUp says that a follower now holds the state of its own committed steps.
type CaughtUp struct {
	Worker     string
	Generation uint64
	Step       uint64
}

// Leaving asks to be left out of the plans to come; the answer is Stop.
type Leaving struct {
	Worker string
	Reason string
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
	Skipped                    []Skipped // in its share; their places were left empty
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
	CauseDamaged           // an image of the data set cannot be decoded here
)

// Aborted says that a worker is out of any step and holds the state of Step committed steps.
type Aborted struct {
	Worker string
	Step   uint64
	Cause  Cause
	Reason string
	Peer   string // the worker that the failure was seen on; for CauseNonFinite the worker itself, when it knows the replica

	Generation uint64
	Behind     bool     // of a follower: Step is its base and the steps it has kept since, and it does not hold that state
	Kept       []uint64 // steps of the states that it could go back to, rising
	Sample     string   // the image that CauseDamaged is about
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
	// Began is the generation of the newest plan that was published when its transfer began: a state that was on its way while all
	// went back to a verified one is not wanted. 0 if there was none.
	Began uint64
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
func (StateHash) event()    {}
func (Audit) event()        {}
func (CaughtUp) event()     {}
func (Leaving) event()      {}

// Action is something to do: the output of Machine.Step.
type Action interface{ action() }

// Welcome accepts a worker: bind the stream to its name and tell it the settings.
type Welcome struct {
	Stream     uint64
	Worker     string
	Epoch      uint64
	PullState  bool // fetch the state that training starts from before Ready; else a plan says where it comes from
	Reattached bool // the place that Hello.Attached tells of is still its own
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
	RefusedEpoch    Refusal = "epoch"   // the worker has followed a later coordinator than this one
	RefusedRemoved  Refusal = "removed" // its bits were wrong
)

// Member is a worker's place in the ring.
type Member struct {
	Worker        string
	RingAddress   string
	GossipAddress string
}

// Follower is a member that fetches a state while training goes on, and hosts nothing yet.
type Follower struct {
	Position int    // in the ring
	Base     uint64 // step of the state it fetches
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
	CheckpointAfter []uint64 // numbers of committed steps after which the first member that does not follow sends its state, rising
	EvaluateAfter   []uint64 // numbers of committed steps, rising; the first may be FirstStep itself. Member k of the n that do not follow does share k of n
	Group           int      // workers in a group of the ring, which are runs of Ring; 1 for a flat one
	Measure         bool     // the links, before the first step

	Epoch       uint64     // of the coordinator
	VerifyEvery uint64     // 0: never
	Followers   []Follower // by position
	Behind      []int      // positions of members that fetch the state of FirstStep before they begin
	Restore     bool       // every member goes back to the state of FirstStep that it has kept
}

// Yield asks a worker for the end of the window at the next step boundary.
type Yield struct {
	Worker               string
	Generation, Sequence uint64
}

// Verified tells a worker which state to keep.
type Verified struct {
	Worker string
	Step   uint64
}

// Removed ends a worker's stream: it is out of the ring. Unless ForGood it may attach anew.
type Removed struct {
	Worker  string
	Reason  string
	ForGood bool
}

// Record puts an entry into the journal, safe on disk, before any action behind it is carried out.
type Record struct{ Entry Entry }

// Load makes the checkpoint at Path what workers get that are told to PullState; without a Path, the state of the run's very beginning.
type Load struct {
	Step uint64
	Path string
}

// Drop removes the checkpoints of steps after Step: they hold bits that were found to be wrong.
type Drop struct {
	Step uint64 `json:"step"`
}

// Entry is a decision, as the journal keeps it. Exactly one field is set.
type Entry struct {
	Epoch      *EpochEntry    `json:"epoch,omitempty"`
	Plan       *Plan          `json:"plan,omitempty"`
	Evaluation *Evaluation    `json:"evaluation,omitempty"` // counted and told to the schedule
	Trained    *TrainedEntry  `json:"trained,omitempty"`    // before a plan, where the schedule learns from the training error
	Stored     *Stored        `json:"stored,omitempty"`
	Removal    *RemovalEntry  `json:"removal,omitempty"`
	Verified   *VerifiedEntry `json:"verified,omitempty"`
	Over       *OverEntry     `json:"over,omitempty"`
	Reference  *Reference     `json:"reference,omitempty"`
	Dispute    *Dispute       `json:"dispute,omitempty"` // see there; settled if it has no claims
	Drop       *Drop          `json:"drop,omitempty"`    // without a plan that goes back in memory; such a plan drops them too
}

// TrainedEntry holds the schedule's state after that many committed steps.
type TrainedEntry struct {
	Step     uint64          `json:"step"`
	Schedule json.RawMessage `json:"schedule"`
}

// EpochEntry opens each coordinator's part of a journal.
type EpochEntry struct {
	Epoch     uint64 `json:"epoch"` // counts the coordinators of a run, from 1
	Run       string `json:"run"`
	FirstStep uint64 `json:"first_step"` // of the state that it would begin from, were there no plan
	Version   string `json:"version"`

	Path     string          `json:"path,omitempty"`     // of that state, if it is a checkpoint
	Schedule json.RawMessage `json:"schedule,omitempty"` // its state with that state
}

// Reference is what workers must agree with, as Ready says it. It is taken from the first that were ready.
type Reference struct {
	DataFingerprint string `json:"data_fingerprint"`
	DataSummary     string `json:"data_summary"`
	Numerics        string `json:"numerics"`
}

// RemovalEntry says that a worker may not come back.
type RemovalEntry struct {
	Worker string `json:"worker"`
	Reason string `json:"reason"`
}

// VerifiedEntry says that all members had one state after Step.
type VerifiedEntry struct {
	Step uint64 `json:"step"`
	Hash string `json:"hash"`
}

// OverEntry closes a journal: the run has ended and nobody needs to attach again.
type OverEntry struct {
	Step  uint64 `json:"step"`
	Error string `json:"error,omitempty"`
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
	DataWait        time.Duration // likewise
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
	// DataWait is the longest that a worker waited for its images: the others wait for that one.
	DataWait time.Duration
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
	DataWait        time.Duration // of all steps but the first together
	DataShare       float64       // what part of their time that is, 0 to 1
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
func (Yield) action()     {}
func (Verified) action()  {}
func (Removed) action()   {}
func (Record) action()    {}
func (Load) action()      {}
func (Drop) action()      {}
