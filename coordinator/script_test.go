package coordinator

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the transcripts in testdata anew")

// TestScripts plays the transcripts in testdata: lines of events, then ----, then the actions that must come of them.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := (&player{t: t}).play(string(raw))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(raw) {
				t.Errorf("transcript differs; run with -update and look at the difference.\n%s", firstDifference(string(raw), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range w {
		if i >= len(g) || w[i] != g[i] {
			return fmt.Sprintf("line %d:\nwant %s\ngot  %s", i+1, w[i], strings.Join(g[min(i, len(g)):min(i+5, len(g))], "\n     "))
		}
	}
	return "more lines than wanted"
}

// player turns lines into events and actions into lines.
type player struct {
	t       *testing.T
	m       *Machine
	cfg     Config
	journal []Entry
	now     time.Time
	stream  uint64
}

// step feeds the machine, and journals what it records.
func (p *player) step(ev Event) []Action {
	out := p.m.Step(ev)
	for _, a := range out {
		if r, ok := a.(Record); ok {
			p.journal = append(p.journal, throughDisk(p.t, r.Entry))
		}
	}
	return out
}

func (p *player) play(script string) string {
	var out strings.Builder
	for _, block := range strings.Split(strings.TrimRight(script, "\n"), "\n\n") {
		input, _, hasOutput := strings.Cut(block+"\n", "----\n")
		if !hasOutput {
			fmt.Fprintf(&out, "%s\n\n", block) // a comment
			continue
		}
		fmt.Fprintf(&out, "%s----\n", input)
		for _, line := range strings.Split(strings.TrimRight(input, "\n"), "\n") {
			for _, a := range p.line(line) {
				fmt.Fprintln(&out, describe(a))
			}
		}
		fmt.Fprintln(&out)
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// words is a line's command, its first argument and its key=value pairs.
func words(line string) (cmd, arg string, kv map[string]string) {
	kv = map[string]string{}
	var rest []string
	for _, f := range strings.Fields(line) {
		if k, v, ok := strings.Cut(f, "="); ok {
			kv[k] = strings.ReplaceAll(v, "_", " ")
		} else {
			rest = append(rest, f)
		}
	}
	cmd = rest[0]
	if len(rest) > 1 {
		arg = rest[1]
	}
	return cmd, arg, kv
}

func (p *player) number(text string) uint64 {
	if text == "" {
		return 0
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

func (p *player) line(line string) []Action {
	cmd, arg, kv := words(line)
	step := p.number(kv["step"])
	switch cmd {
	case "config":
		p.configure(kv)
		return nil
	case "restart":
		return p.restart()
	case "tick":
		d, err := time.ParseDuration(arg)
		if err != nil {
			p.t.Fatal(err)
		}
		var out []Action
		for ; d > 0; d -= 200 * time.Millisecond {
			p.now = p.now.Add(200 * time.Millisecond)
			out = append(out, p.step(Tick{p.now})...)
			for _, w := range strings.Split(kv["alive"], ",") {
				out = append(out, p.step(Heartbeat{w})...)
			}
		}
		return out
	case "hello":
		p.stream++
		h := Hello{Stream: p.stream, Worker: arg, Version: "v1", Settings: map[string]string{}}
		for k, v := range kv {
			switch k {
			case "version":
				h.Version = v
			case "attached":
				h.Attached = p.attachment(arg, v, kv)
			case "step", "running", "behind", "epoch":
			default:
				h.Settings[k] = v
			}
		}
		return p.step(h)
	case "ready":
		r := readyOf(arg)
		for k, to := range map[string]*string{"ring": &r.RingAddress, "data": &r.DataFingerprint, "summary": &r.DataSummary, "numerics": &r.Numerics} {
			if v, ok := kv[k]; ok {
				*to = v
			}
		}
		return p.step(r)
	}
	return p.step(p.event(cmd, arg, step, kv))
}

// readyOf is what a worker says that has everything.
func readyOf(worker string) Ready {
	return Ready{Worker: worker, RingAddress: "10.0.0.1:" + strconv.Itoa(len(worker)*1000+int(worker[len(worker)-1])), DataFingerprint: "d1", DataSummary: "50000 images", Numerics: "fp32", Engine: "cpu"}
}

// attachment reads "GENERATION.SEQUENCE", and the rest from the line's pairs.
func (p *player) attachment(worker, plan string, kv map[string]string) *Attachment {
	a := &Attachment{Run: "demo", Epoch: 1, Step: p.number(kv["step"]), Running: kv["running"] != "", Behind: kv["behind"] != "", Ready: readyOf(worker)}
	generation, sequence, _ := strings.Cut(plan, ".")
	a.Generation, a.Sequence = p.number(generation), p.number(sequence)
	if kv["epoch"] != "" {
		a.Epoch = p.number(kv["epoch"])
	}
	return a
}

// throughDisk gives an entry as the next coordinator reads it.
func throughDisk(t interface{ Fatal(...any) }, e Entry) Entry {
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var out Entry
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// restart ends the coordinator and starts another with its journal.
func (p *player) restart() []Action {
	p.cfg.Epoch++
	var err error
	if p.m, err = New(p.cfg); err != nil {
		p.t.Fatal(err)
	}
	if err := p.m.Restore(p.journal); err != nil {
		p.t.Fatal(err)
	}
	return p.step(Tick{p.now})
}

func numbers(p *player, text string) []uint64 {
	var out []uint64
	for _, f := range strings.Split(text, ",") {
		if f != "" {
			out = append(out, p.number(f))
		}
	}
	return out
}

func (p *player) event(cmd, arg string, step uint64, kv map[string]string) Event {
	switch cmd {
	case "step":
		took := time.Second
		if kv["took"] != "" {
			var err error
			if took, err = time.ParseDuration(kv["took"]); err != nil {
				p.t.Fatal(err)
			}
		}
		var tail time.Duration
		if kv["tail"] != "" {
			var err error
			if tail, err = time.ParseDuration(kv["tail"]); err != nil {
				p.t.Fatal(err)
			}
		}
		start := time.Unix(0, 0).Add(time.Duration(step-1) * took)
		return StepReport{Worker: arg, Step: step, Loss: 1 / float64(step), Images: 256, Correct1: 64, LR: 0.1, Start: start, End: start.Add(took), Tail: tail, StateHash: kv["hash"],
			Generation: p.generation(kv), Sequence: p.m.plan.Sequence, Last: kv["last"] != "", Behind: kv["behind"] != ""}
	case "measured":
		hop, err := time.ParseDuration(kv["hop"])
		if err != nil {
			p.t.Fatal(err)
		}
		return Measured{arg, Traffic{Hop: hop, BytesPerSecond: float64(p.number(kv["rate"])), StepBytes: p.number(kv["bytes"]), Buckets: int(p.number(kv["buckets"]))}}
	case "eval":
		return EvalReport{Worker: arg, Step: step, Images: p.number(kv["images"]), Correct1: p.number(kv["right"]), LossSum: int64(p.number(kv["images"])) << 31}
	case "aborted":
		cause := map[string]Cause{"paused": CausePaused, "ring": CauseRing, "nonfinite": CauseNonFinite, "local": CauseLocal, "damaged": CauseDamaged}[kv["cause"]]
		return Aborted{Worker: arg, Step: step, Cause: cause, Reason: kv["reason"], Peer: kv["peer"], Generation: p.generation(kv), Behind: kv["behind"] != "", Kept: numbers(p, kv["kept"]), Sample: kv["sample"]}
	case "caught-up":
		return CaughtUp{Worker: arg, Step: step, Generation: p.generation(kv)}
	case "leaving":
		return Leaving{arg, kv["reason"]}
	case "hash":
		return StateHash{Worker: arg, Step: step, Hash: kv["hash"]}
	case "audit":
		return Audit{Worker: arg, Step: step, Replica: int(p.number(kv["replica"])), Digest: kv["digest"], Generation: p.generation(kv)}
	case "broken":
		return StreamBroken{arg, "EOF"}
	case "gossip-dead":
		return GossipDead{arg}
	case "left":
		return Left{arg, kv["reason"]}
	case "state":
		return StateArrived{arg, step, kv["hash"], p.generation(kv)}
	case "state-lost":
		return StateLost{arg, step, "checksum"}
	case "stored":
		return Stored{step, "ckpt-" + kv["step"]}
	case "store-failed":
		return StoreFailed{step, "no space left on device"}
	case "interrupt":
		return Interrupt{"interrupted"}
	}
	p.t.Fatalf("unknown command %q", cmd)
	return nil
}

// generation is the newest plan's unless another is given.
func (p *player) generation(kv map[string]string) uint64 {
	if g, ok := kv["gen"]; ok {
		return p.number(g)
	}
	return p.m.plan.Generation
}

func (p *player) configure(kv map[string]string) {
	cfg := DefaultConfig()
	cfg.Run, cfg.Version, cfg.Settings = "demo", "v1", map[string]string{"seed": "1", "arch": "cifar-resnet20"}
	cfg.TotalSteps, cfg.FirstStep, cfg.CheckpointEvery = p.number(kv["steps"]), p.number(kv["first"]), p.number(kv["checkpoint"])
	cfg.StepsPerEpoch, cfg.GlobalBatch, cfg.Replicas = 10, 256, 8
	cfg.MinWorkers = int(p.number(kv["workers"]))
	cfg.Group = int(p.number(kv["group"]))
	cfg.VerifyEvery = p.number(kv["verify"])
	cfg.FixedCrew, cfg.NoStore = kv["fixed"] != "", kv["nostore"] != ""
	if cfg.FirstStep > 0 {
		cfg.Resumed = fmt.Sprintf("ckpt-%d", cfg.FirstStep)
	}
	if v, ok := kv["eval"]; ok {
		cfg.Evaluate = true
		if v != "end" {
			span, err := ParseSpan(v)
			if err != nil {
				p.t.Fatal(err)
			}
			cfg.EvalEvery = span
		}
	}
	schedule := kv["schedule"]
	if schedule == "" {
		schedule = "constant"
	}
	schedule = strings.ReplaceAll(schedule, ";", "=")
	var err error
	if cfg.Schedule, err = ParseSchedule(schedule, kv["warmup"], 0.1, Scale{cfg.StepsPerEpoch, cfg.TotalSteps}); err != nil {
		p.t.Fatal(err)
	}
	if state, ok := kv["state"]; ok {
		if err := cfg.Schedule.Restore([]byte(state)); err != nil {
			p.t.Fatal(err)
		}
	}
	p.cfg, p.journal = cfg, nil
	if p.m, err = New(cfg); err != nil {
		p.t.Fatal(err)
	}
	p.now = time.Unix(1000, 0)
	p.step(Tick{p.now})
}

func mark(on bool, name string) string {
	if on {
		return " " + name
	}
	return ""
}

// describeEntry writes what is journaled; of a plan, which follows, only its number.
func describeEntry(e Entry) string {
	if e.Plan != nil {
		return fmt.Sprintf("plan %d.%d", e.Plan.Generation, e.Plan.Sequence)
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// withTail names a tail where a script gives any.
func withTail(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return " tail=" + d.String()
}

// describe writes an action on a line.
func describe(a Action) string {
	switch a := a.(type) {
	case Welcome:
		return "welcome " + a.Worker + mark(a.PullState, "pull") + mark(a.Reattached, "reattached")
	case Refuse:
		return fmt.Sprintf("refuse %s (%s): %s", a.Worker, a.Kind, a.Reason)
	case Publish:
		pl := a.Plan
		var ring []string
		for _, m := range pl.Ring {
			ring = append(ring, m.Worker)
		}
		more := "" // flat, and nothing to measure
		if pl.Group != 1 || pl.Measure {
			more = fmt.Sprintf(" group=%d measure=%v", pl.Group, pl.Measure)
		}
		if pl.Followers != nil {
			more += fmt.Sprintf(" followers=%v", pl.Followers)
		}
		if pl.Behind != nil {
			more += fmt.Sprintf(" behind=%v", pl.Behind)
		}
		more += mark(pl.Restore, "restore")
		return fmt.Sprintf("publish %d.%d ring=%v hosts=%v steps=[%d,%d) lr=%v checkpoints=%v evaluate=%v%s", pl.Generation, pl.Sequence, ring,
			pl.ReplicaHost, pl.FirstStep, pl.UntilStep, pl.LearningRates, pl.CheckpointAfter, pl.EvaluateAfter, more)
	case Record:
		return "record " + describeEntry(a.Entry)
	case Report:
		if e := a.Evaluation; e != nil {
			return fmt.Sprintf("evaluation step=%d images=%d top1=%.3f loss=%.3f", e.Step, e.Images, e.Top1(), e.Loss)
		}
		if a.Progress.Event != "" {
			return fmt.Sprintf("tell warning=%v %s", a.Progress.Warning, a.Progress.Event)
		}
		p := a.Progress
		return fmt.Sprintf("progress step=%d/%d epoch=%.1f loss=%.3f top1=%.2f lr=%v images/s=%.0f left=%v%s", p.Step, p.Total, p.Epoch, p.Loss, p.Top1, p.LR, p.ImagesPerSecond, p.Remaining, withTail(p.Tail))
	case StepDone:
		return fmt.Sprintf("done step=%d took=%v%s", a.Step, a.End.Sub(a.Start), withTail(a.Tail))
	case Store:
		return fmt.Sprintf("store step=%d from %s schedule=%s", a.Step, a.Worker, a.Schedule)
	case Finish:
		r := a.Result
		return fmt.Sprintf("finish step=%d hash=%q path=%q images/s=%.0f%s err=%v", r.Step, r.Hash, r.Path, r.ImagesPerSecond, withTail(r.Tail), a.Err)
	}
	return fmt.Sprintf("%T%+v", a, a)
}
