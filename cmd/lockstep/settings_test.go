package main

import (
	"maps"
	"slices"
	"testing"
)

// TestSettingsTravel holds that every setting, put as text on the wire or into a checkpoint, comes back as it was.
func TestSettingsTravel(t *testing.T) {
	s := newSettings()
	for name, v := range map[string]string{"mean": "0.48512345678,0.1,1e-7", "std": "0.229, 0.224, 0.225", "lr": "0.012345678901", "epochs": "0.1",
		"seed": "18446744073709551615", "skip-damaged": "true", "weight-decay": "1e-30", "schedule": "steps:60%,90%,factor=5"} {
		if err := s.flags.Set(name, v); err != nil {
			t.Fatal(err)
		}
	}
	back, err := settingsFrom(s.values())
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(s.values(), back.values()) {
		t.Errorf("%v came back as %v", s.values(), back.values())
	}
	if want := []float64{0.48512345678, 0.1, 1e-7}; !slices.Equal(back.mean, want) {
		t.Errorf("mean %v, want %v", back.mean, want)
	}
	if back.lr != 0.012345678901 || back.seed != 1<<64-1 || back.weightDecay != 1e-30 {
		t.Errorf("lr %v, seed %v, weight decay %v", back.lr, back.seed, back.weightDecay)
	}
	if _, err := settingsFrom(map[string]string{"flavour": "red"}); err == nil {
		t.Error("an unknown setting was taken")
	}
	for _, bad := range []string{"a,b,c", "NaN,1,1", "1,,1", "+Inf,0,0"} {
		if err := newSettings().flags.Set("mean", bad); err == nil {
			t.Errorf("--mean %s was taken", bad)
		}
	}
}
