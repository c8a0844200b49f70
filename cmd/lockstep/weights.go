package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// tableFor gives the checkpoint package a network's tensors.
func tableFor(n *core.Network) checkpoint.Table {
	var t checkpoint.Table
	for _, p := range n.Params() {
		t.AddParam(p.Name, p.Shape...)
	}
	for _, b := range n.Norms() {
		t.AddNorm(b.Name, b.Channels)
	}
	return t
}

func stateOf(s *snapshot.Snapshot) *core.State[float32] {
	return &core.State[float32]{Params: s.Params, Momentum: s.Momentum, Mean: s.Mean, Var: s.Var}
}

// freshState draws He initialisation.
func freshState(n *core.Network, seed uint64) *snapshot.Snapshot {
	s := snapshot.New(snapshot.Lengths{Params: n.ParamLen(), Momentum: n.ParamLen(), Mean: n.NormLen(), Var: n.NormLen()})
	core.InitHe(n, seed, stateOf(s))
	return s
}

// isFile says whether an argument names a file rather than a run's folder.
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// loadCheckpoint reads one file.
func loadCheckpoint(ctx context.Context, path string) (*checkpoint.Checkpoint, error) {
	store, err := checkpoint.Open(readOnly("."))
	if err != nil {
		return nil, err
	}
	return store.Load(ctx, path)
}

func readOnly(dir string) checkpoint.Options {
	o := checkpoint.DefaultOptions(dir)
	o.ReadOnly = true
	return o
}

// loadWeights reads weights and running statistics for a network, from a checkpoint or a safetensors file.
func loadWeights(ctx context.Context, path string, n *core.Network) (*snapshot.Snapshot, error) {
	switch filepath.Ext(path) {
	case ".ckpt":
		c, err := loadCheckpoint(ctx, path)
		if err != nil {
			return nil, err
		}
		return c.Snapshot(tableFor(n))
	case ".safetensors":
	default:
		return nil, fmt.Errorf("weights %s: the file must be a .safetensors or a .ckpt", path)
	}
	arrays, _, err := checkpoint.LoadSafetensors(vfs.OS{}, path, checkpoint.DefaultMaxBytes)
	if err != nil {
		return nil, err
	}
	s := freshState(n, 0)
	if err := checkpoint.ImportWeights(arrays, tableFor(n), s, checkpoint.ImportOptions{}); err != nil {
		return nil, fmt.Errorf("%s does not fit %s: %w", path, n.Name, err)
	}
	return s, nil
}

// runRecord is what a checkpoint keeps of its run besides the tensors.
type runRecord struct {
	Settings map[string]string `json:"settings"`
	Classes  []string          `json:"classes"`
	Data     string            `json:"data_fingerprint"`
}

// recordOf reads back the record of a checkpoint.
func recordOf(c json.RawMessage) (*runRecord, *settings, error) {
	var r runRecord
	if err := json.Unmarshal(c, &r); err != nil {
		return nil, nil, fmt.Errorf("the checkpoint's settings: %w", err)
	}
	s, err := settingsFrom(r.Settings)
	if err != nil {
		return nil, nil, fmt.Errorf("the checkpoint's settings: %w", err)
	}
	return &r, s, nil
}
