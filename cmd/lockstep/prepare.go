package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/coordinator/journal"
	"github.com/lockstep-ml/lockstep/coordinator/server"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/internal/ledger"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
	"github.com/lockstep-ml/lockstep/shard"
	"github.com/lockstep-ml/lockstep/shard/source"
)

// The sample's own recipe, used by `lockstep train` where neither data nor length nor batch were given: enough to
// see a network learn in a few minutes on two cores.
var sampleRecipe = map[string]string{"epochs": "16", "batch": "64", "schedule": "steps:70%,90%", "warmup": "1e", "eval-every": "2e"}

// changeable settings may differ when a run is resumed; any other would make it another run.
var changeable = []string{"data", "val-data", "steps", "epochs", "eval-every", "checkpoint-every", "skip-damaged"}

// prepared is a run ready to be coordinated.
type prepared struct {
	settings *settings
	network  *core.Network
	record   runRecord
	summary  string
	total    uint64
	perEpoch float64
	schedule *coordinator.Schedule
	hasTest  bool
	initial  *snapshot.Snapshot
	store    *runStore
	resumed  string // the checkpoint's path; empty for a fresh run
	occupied bool   // the output folder holds an earlier run
	locks    []io.Closer
	journal  *journal.Journal
	history  journal.Opened
	ledger   *ledger.Writer
	damaged  *damagedLog
	noting   sync.Mutex
	folder   *folder
	notes    []string // for people, before training begins

	overruled []string // settings that the recipe would have otherwise
}

// prepare reads settings, data and checkpoints, and makes the state that training starts from.
func prepare(ctx context.Context, o *runOptions) (*prepared, error) {
	p := &prepared{settings: o.settings}
	resume, err := p.openOut(ctx, o)
	if err != nil {
		return nil, err
	}
	if p.resumed == "" {
		if p.overruled, err = applyRecipe(p.settings); err != nil {
			return nil, err
		}
		applySampleRecipe(p.settings)
	}
	if err := errors.Join(p.settings.validate(), p.settings.absolute()); err != nil {
		return nil, err
	}
	if err := p.openData(ctx, resume, o.source.options(p.warn)); err != nil {
		return nil, err
	}
	if err := p.plan(resume); err != nil {
		return nil, err
	}
	if err := p.claim(o); err != nil {
		return nil, errors.Join(err, p.close())
	}
	err = p.start(ctx, resume)
	if err == nil {
		err = p.folder.begin(p, o)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// applySampleRecipe fills in what the user left open for the built-in sample.
func applySampleRecipe(s *settings) {
	if s.data != shard.Builtin {
		return
	}
	given := s.given()
	for _, name := range []string{"steps", "epochs", "batch", "schedule"} {
		if _, ok := given[name]; ok {
			return
		}
	}
	for _, name := range []string{"epochs", "batch", "schedule", "warmup", "eval-every"} {
		if _, ok := given[name]; ok {
			continue
		}
		if err := s.flags.Set(name, sampleRecipe[name]); err != nil {
			panic(fmt.Sprintf("lockstep: the sample's recipe: %s: %v", name, err))
		}
	}
}

// openOut opens the output folder and, to resume, the checkpoint in it.
func (p *prepared) openOut(ctx context.Context, o *runOptions) (*checkpoint.Checkpoint, error) {
	dir := checkpointDir(o.out)
	look, err := checkpoint.Open(readOnly(dir))
	if err != nil {
		return nil, err
	}
	entries, err := look.List()
	if err != nil {
		return nil, err
	}
	o.resume = o.resume || o.goOn && len(entries) > 0
	if !o.resuming() {
		p.occupied = len(entries) > 0
		return nil, nil
	}
	var c *checkpoint.Checkpoint
	if o.resumeFrom != "" {
		c, err = loadCheckpoint(ctx, o.resumeFrom)
		p.resumed = o.resumeFrom
	} else {
		c, err = newestGood(ctx, look)
		p.resumed = filepath.Join(dir, checkpoint.FileName(stepOf(c)))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot resume: %w", err)
	}
	return c, p.adopt(c)
}

// claim makes the output folder this run's own, so that no other writes there meanwhile. What an earlier run left stays, under another name.
func (p *prepared) claim(o *runOptions) (err error) {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	if err := p.lockFolder(o.out); err != nil {
		return fmt.Errorf("a run is writing to %s: wait for its end, or choose another --out: %w", o.out, err)
	}
	if p.occupied {
		dir := checkpointDir(o.out)
		aside, err := freeName(dir)
		if err != nil {
			return err
		}
		if err := os.Rename(dir, aside); err != nil {
			return fmt.Errorf("setting the run before this one aside: %w", err)
		}
		p.note(fmt.Sprintf("%s held a run already: its checkpoints are now in %s (--resume goes on with a run)", o.out, aside))
	}
	if err := p.openJournal(o); err != nil {
		return err
	}
	if p.ledger, err = p.openLedger(o); err != nil {
		return err
	}
	if err := p.openDamaged(o); err != nil {
		return err
	}
	if p.folder, err = p.openFolder(o); err != nil {
		return err
	}
	return p.openStore(o)
}

// close gives the output folder free.
func (p *prepared) close() error {
	var errs []error
	if p.ledger != nil {
		errs = append(errs, p.ledger.Close())
	}
	if p.damaged != nil {
		p.damaged.end()
		errs = append(errs, p.damaged.Sync())
	}
	if p.folder != nil {
		errs = append(errs, p.folder.metrics.Close())
	}
	if p.journal != nil {
		errs = append(errs, p.journal.Close())
	}
	for _, l := range p.locks {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

func stepOf(c *checkpoint.Checkpoint) uint64 {
	if c == nil {
		return 0
	}
	return c.Step
}

// newestGood loads the newest checkpoint. Where that is damaged it offers the newest that is not, and leaves the choice to the user.
func newestGood(ctx context.Context, store *checkpoint.Store) (*checkpoint.Checkpoint, error) {
	c, damage, err := store.Latest(ctx)
	if err != nil {
		return nil, err
	}
	if len(damage) == 0 {
		return c, nil
	}
	var errs []error
	for i := range damage {
		errs = append(errs, &damage[i])
	}
	good := filepath.Join(filepath.Dir(damage[0].Path), checkpoint.FileName(c.Step))
	errs = append(errs, fmt.Errorf("%s, of step %d, is good: go on from it with --resume-from %s", good, c.Step, good))
	return nil, errors.Join(errs...)
}

// adopt takes the settings of the run that is resumed, and refuses others that were given.
func (p *prepared) adopt(c *checkpoint.Checkpoint) error {
	r, s, err := recordOf(c.Config)
	if err != nil {
		return err
	}
	if r.Data == "" {
		return errors.New("the checkpoint was imported, not trained, so there is no run to go on with: start one with --init and the checkpoint's file")
	}
	if err := p.settings.absolute(); err != nil {
		return err
	}
	given := p.settings.given()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(given)) {
		v := given[name]
		if slices.Contains(changeable, name) {
			if (name == "steps" || name == "epochs") && v != "0" { // one replaces the other
				s.steps, s.epochs = 0, 0
			}
			errs = append(errs, s.flags.Set(name, v))
			continue
		}
		if had := s.flags.Lookup(name).Value.String(); had != v {
			errs = append(errs, fmt.Errorf("the run was started with --%s %s, not %s: leave it out, or start another run with --init", name, had, v))
		}
	}
	p.settings = s
	return errors.Join(errs...)
}

func (p *prepared) openStore(o *runOptions) error {
	opts := checkpoint.DefaultOptions(checkpointDir(o.out))
	opts.Keep = o.keep
	store, err := checkpoint.Open(opts)
	if err != nil {
		return err
	}
	for _, f := range store.Cleaned() {
		p.note("removed a half-written checkpoint: " + f)
	}
	p.store = &runStore{store: store, dir: opts.Dir}
	return nil
}

// openData looks at the data set, and builds the network for its classes.
func (p *prepared) openData(ctx context.Context, resume *checkpoint.Checkpoint, src source.Options) error {
	s := p.settings
	d, err := openSplits(ctx, s.dataOptions(src))
	if err != nil {
		return err
	}
	defer d.close() // only read from
	if p.network, err = s.network(len(d.train.Classes())); err != nil {
		return err
	}
	if err := s.checkTransform(p.network); err != nil {
		return err
	}
	s.classes = p.network.Classes
	p.record = runRecord{Settings: s.values(), Classes: d.train.Classes(), Data: d.fingerprint()}
	p.summary, p.hasTest = d.summary(), d.test != nil
	p.perEpoch = float64(d.train.Len()) / float64(s.batch)
	if resume == nil {
		return nil
	}
	r, _, err := recordOf(resume.Config)
	if err != nil {
		return err
	}
	if r.Data != p.record.Data {
		return fmt.Errorf("%s is not the data that the run was started with (fingerprint %.12s, then %.12s)", source.Clean(s.data), p.record.Data, r.Data)
	}
	return nil
}

// note takes what is for people, and no reason to stop. It may run concurrently.
func (p *prepared) note(texts ...string) {
	p.noting.Lock()
	defer p.noting.Unlock()
	p.notes = append(p.notes, texts...)
}

// noted gives the notes so far.
func (p *prepared) noted() []string {
	p.noting.Lock()
	defer p.noting.Unlock()
	return slices.Clone(p.notes)
}

// warn notes an error that passes.
func (p *prepared) warn(err error) { p.note(err.Error()) }

// plan works out the run's length and learning rates.
func (p *prepared) plan(resume *checkpoint.Checkpoint) error {
	s := p.settings
	switch {
	case s.steps > 0:
		p.total = s.steps
	case s.epochs > 0:
		p.total = uint64(math.Ceil(s.epochs*p.perEpoch - 1e-6))
	default:
		return errors.New("how long? Give --epochs or --steps")
	}
	var err error
	p.schedule, err = coordinator.ParseSchedule(s.schedule, s.warmup, s.lr, coordinator.Scale{StepsPerEpoch: p.perEpoch, TotalSteps: p.total})
	if err != nil || resume == nil {
		return err
	}
	return p.schedule.Restore(resume.Schedule)
}

// start makes or reads the first state; a fresh run's is written down at once, so that there always is a checkpoint.
func (p *prepared) start(ctx context.Context, resume *checkpoint.Checkpoint) (err error) {
	table := tableFor(p.network)
	if p.store.record, err = json.Marshal(p.record); err != nil {
		return err
	}
	p.store.table, p.store.ledger, p.store.damaged, p.store.folder = table, p.ledger, p.damaged, p.folder
	if resume != nil {
		p.initial, err = resume.Snapshot(table)
		return err
	}
	if p.settings.initFrom == "" {
		p.initial = freshState(p.network, p.settings.seed)
	} else {
		w, err := openWeights(ctx, p.settings.initFrom)
		if err != nil {
			return err
		}
		var notes []string
		if p.initial, notes, err = w.start(p.network, p.settings.seed); err != nil {
			return err
		}
		p.note(notes...)
	}
	_, err = p.store.Put(ctx, p.initial, server.Meta{Hash: p.initial.Hash(), Schedule: p.schedule.MarshalState()})
	return err
}

// runStore writes checkpoints for the coordinator.
type runStore struct {
	store   *checkpoint.Store
	dir     string
	table   checkpoint.Table
	record  json.RawMessage
	ledger  *ledger.Writer // made safe with each checkpoint, as is the next
	damaged *damagedLog
	folder  *folder // likewise its metrics
}

// Put implements server.Store.
func (r *runStore) Put(ctx context.Context, s *snapshot.Snapshot, meta server.Meta) (string, error) {
	c, err := checkpoint.FromSnapshot(s, r.table)
	if err != nil {
		return "", err
	}
	c.Hash, c.Version, c.Config, c.Schedule = meta.Hash, buildVersion(), r.record, meta.Schedule
	if c.Data, err = json.Marshal(meta.Data); err != nil {
		return "", err
	}
	if err := r.ledger.Sync(); err != nil {
		return "", fmt.Errorf("the ledger of samples: %w", err)
	}
	if err := r.damaged.Sync(); err != nil {
		return "", fmt.Errorf("the list of damaged images: %w", err)
	}
	if err := r.folder.metrics.Sync(); err != nil {
		return "", fmt.Errorf("the run's metrics: %w", err)
	}
	path, err := r.store.Save(ctx, c)
	if path != "" {
		r.folder.best.keep(s.Step, path)
	}
	var prune *checkpoint.PruneError
	if errors.As(err, &prune) && path != "" {
		return path, nil // the new one is safe; the old ones show in checkpoint ls
	}
	return path, err
}

// Get implements server.Store. Another machine may have the folder elsewhere than the one that wrote the checkpoint.
func (r *runStore) Get(ctx context.Context, path string) (*snapshot.Snapshot, error) {
	here := filepath.Join(r.dir, filepath.Base(path))
	if _, err := os.Stat(here); err == nil {
		path = here
	}
	c, err := r.store.Load(ctx, path)
	if err != nil {
		return nil, err
	}
	return c.Snapshot(r.table)
}

// Drop implements server.Store.
func (r *runStore) Drop(after uint64) error {
	return errors.Join(r.store.Drop(after), r.folder.best.drop(after))
}

// runName tells a run from any other, so that stray processes of an earlier one are refused. A run that is gone on with keeps its name:
// its workers may still be there.
func (p *prepared) runName() string {
	if p.history.Run != "" {
		return p.history.Run
	}
	return strings.Join([]string{p.settings.arch, "seed" + strconv.FormatUint(p.settings.seed, 10),
		strconv.FormatInt(time.Now().UnixNano(), 36)}, "-")
}
