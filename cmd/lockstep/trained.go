package main

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
	"github.com/lockstep-ml/lockstep/shard"
)

// trained is a network with its weights and what is needed to use them.
type trained struct {
	settings *settings
	net      *core.Network
	state    *snapshot.Snapshot
	classes  []string // names; nil where they are not known
}

const weightsHelp = "a file of weights (safetensors, PyTorch's .pth), a checkpoint, or a run's folder (its newest checkpoint)"

// openTrained opens a run's folder, a checkpoint or a file of weights. Settings that were given win over those that came with it.
func openTrained(cmd *cobra.Command, path string, s *settings) (*trained, error) {
	w, err := findWeights(cmd, path)
	if err != nil {
		return nil, err
	}
	t := &trained{settings: s}
	classes := checkpoint.Classes(w.arrays)
	if w.ckpt != nil {
		classes, err = t.adoptRun(w)
	} else {
		err = t.adoptFile(w)
	}
	if err != nil {
		return nil, err
	}
	if t.net, err = t.settings.network(classes); err != nil {
		return nil, err
	}
	for _, n := range w.remarks(t.net) {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	t.state, err = w.state(t.net)
	return t, err
}

// findWeights opens what an argument means: a file, or a run's newest checkpoint.
func findWeights(cmd *cobra.Command, path string) (*weightsFile, error) {
	if isFile(path) {
		return openWeights(cmd.Context(), path)
	}
	c, err := loadNewest(cmd, path)
	if err != nil {
		return nil, err
	}
	w := &weightsFile{path: path, ckpt: c}
	w.name()
	return w, nil
}

// adoptRun takes over a checkpoint's settings and class names, and gives the number of classes.
func (t *trained) adoptRun(w *weightsFile) (int, error) {
	r, own, err := recordOf(w.ckpt.Config)
	if err != nil {
		return 0, err
	}
	if err := own.override(t.settings); err != nil {
		return 0, err
	}
	t.settings, t.classes = own, known(r.Classes)
	return len(r.Classes), nil
}

// adoptFile takes over what a file of weights says of itself.
func (t *trained) adoptFile(w *weightsFile) error {
	if err := w.adopt(t.settings); err != nil {
		return err
	}
	text := w.meta[metaClasses]
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), &t.classes); err != nil {
		return fmt.Errorf("%s: metadata %s: %w", w.path, metaClasses, err)
	}
	return nil
}

// override takes what was given by flag, file or environment.
func (s *settings) override(by *settings) error {
	for name, v := range by.given() {
		if f := s.flags.Lookup(name); f != nil {
			if err := s.flags.Set(name, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// known gives class names, nil where they are blanks that stand for names nobody knew.
func known(names []string) []string {
	for _, n := range names {
		if n != "" {
			return names
		}
	}
	return nil
}

// transform says how images become the network's input.
func (t *trained) transform() shard.Transform { return t.settings.transform(t.net, false) }

// metadata is what goes with the weights when they leave.
func (t *trained) metadata() (map[string]string, error) {
	f := t.transform()
	floats := func(v [3]float32) string {
		out := ""
		for i, x := range v {
			if i > 0 {
				out += ","
			}
			out += strconv.FormatFloat(float64(x), 'g', -1, 32)
		}
		return out
	}
	meta := map[string]string{"format": "pt", metaArch: t.settings.arch, metaHash: t.state.Hash(), metaStep: fmt.Sprint(t.state.Step),
		metaPrefix + "mean": floats(f.Mean), metaPrefix + "std": floats(f.Std), metaPrefix + "resolution": fmt.Sprint(f.Resolution)}
	if t.settings.augment != "" {
		meta[metaPrefix+"augment"] = t.settings.augment // its kind says how images are cropped
	}
	if t.classes != nil {
		names, err := json.Marshal(t.classes)
		if err != nil {
			return nil, err
		}
		meta[metaClasses] = string(names)
	}
	return meta, nil
}
