package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
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
