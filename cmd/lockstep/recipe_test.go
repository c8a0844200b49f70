package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/coordinator"
)

// withRecipe gives the settings of these flags.
func withRecipe(t *testing.T, args ...string) (*settings, []string) {
	t.Helper()
	s := newSettings()
	if err := s.flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	overruled, err := applyRecipe(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.validate(); err != nil {
		t.Fatal(err)
	}
	return s, overruled
}

// rates are a recipe's learning rates at some steps.
func rates(t *testing.T, s *settings, perEpoch float64, at ...uint64) []float64 {
	t.Helper()
	schedule, err := coordinator.ParseSchedule(s.schedule, s.warmup, s.lr, coordinator.Scale{StepsPerEpoch: perEpoch, TotalSteps: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	var out []float64
	for _, step := range at {
		out = append(out, schedule.LR(step))
	}
	return out
}

// TestRecipesAreThePapers holds each number against the text: sections 3.4 and 4.2 of He et al. 2015, and torchvision's reference.
func TestRecipesAreThePapers(t *testing.T) {
	s, _ := withRecipe(t, "--recipe", "cifar-paper", "--arch", "cifar-resnet56")
	if s.batch != 128 || s.steps != 64_000 || s.epochs != 0 || s.momentum != 0.9 || s.weightDecay != 1e-4 || s.augment != "cifar" || s.warmup != "" {
		t.Errorf("cifar-paper is %v", s.values())
	}
	if s.replicas() != 2 {
		t.Errorf("a batch of 128 on two GPUs is %d replicas", s.replicas())
	}
	if got, want := rates(t, s, 390.625, 0, 31_999, 32_000, 47_999, 48_000), []float64{0.1, 0.1, 0.01, 0.01, 0.001}; !slices.Equal(got, want) {
		t.Errorf("cifar-paper's rates are %v, want %v", got, want)
	}
	for _, arch := range []string{"cifar-resnet110", "cifar-resnet1202"} {
		s, _ = withRecipe(t, "--recipe", "cifar-paper", "--arch", arch)
		if got := rates(t, s, 390.625, 0, 31_999); !slices.Equal(got, []float64{0.01, 0.01}) { // until the training error has fallen
			t.Errorf("%s begins with %v", arch, got)
		}
	}
	s, _ = withRecipe(t, "--recipe", "imagenet-paper")
	if s.batch != 256 || s.steps != 60e4 || s.lr != 0.1 || s.momentum != 0.9 || s.weightDecay != 1e-4 || s.augment != "scale" {
		t.Errorf("imagenet-paper is %v", s.values())
	}
	if kind, _, _ := strings.Cut(s.schedule, ":"); kind != string(coordinator.Plateau) {
		t.Errorf("imagenet-paper's schedule is %s", s.schedule)
	}
	s, _ = withRecipe(t, "--recipe", "imagenet-modern")
	if s.batch != 256 || s.epochs != 90 || s.steps != 0 || s.augment != "resized-crop" {
		t.Errorf("imagenet-modern is %v", s.values())
	}
	if got, want := rates(t, s, 5000, 149_999, 150_000, 300_000), []float64{0.1, 0.01, 0.001}; !slices.Equal(got, want) {
		t.Errorf("imagenet-modern's rates are %v, want %v", got, want)
	}
}

// TestRecipeYields holds that every setting can be overruled, that this is said, and that the whole is shown.
func TestRecipeYields(t *testing.T) {
	s, overruled := withRecipe(t, "--recipe", "imagenet-modern", "--steps", "7", "--lr", "0.2", "--batch", "256")
	if s.steps != 7 || s.epochs != 0 || s.lr != 0.2 || !slices.Equal(overruled, []string{"epochs", "lr"}) {
		t.Errorf("steps %d, epochs %v, rate %v, overruled %v", s.steps, s.epochs, s.lr, overruled)
	}
	text := strings.Join(s.describe(overruled), "\n")
	for _, want := range []string{"torchvision", "otherwise than it says: epochs, lr", "steps=7", "momentum=0.9", "weight-decay=0.0001", "seed=1"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	for name := range maps.Keys(recipes) {
		for setting := range recipes[name].settings {
			if s.flags.Lookup(setting) == nil {
				t.Errorf("recipe %s has %s, which is no setting", name, setting)
			}
		}
	}
	bad := newSettings()
	bad.recipe = "paper"
	if _, err := applyRecipe(bad); err == nil || !strings.Contains(err.Error(), "cifar-paper") {
		t.Errorf("an unknown recipe: %v", err)
	}
}

// TestRecipeTrains runs a recipe for a few steps: it is announced, kept in the checkpoint, and gone on with.
func TestRecipeTrains(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	args := []string{"train", "--json", "--recipe", "cifar-paper", "--arch", "cifar-resnet8", "--data", shared.images(), "--batch", "32", "--replica-batch", "8",
		"--eval-every", "0", "--warmup", "error:99%@0.01,every=2", "--out", out}
	lockstep(t, 0, append(args, "--steps", "3")...).says("recipe cifar-paper: He et al. 2015", "otherwise than it says", "warmup=error:99%@0.01,every=2")
	r := lockstep(t, 0, "train", "--json", "--out", out, "--resume", "--steps", "6", "--workers", "1").report()
	whole := lockstep(t, 0, append(args[:len(args)-1], t.TempDir(), "--steps", "6")...).report()
	if r.Hash != whole.Hash {
		t.Errorf("resumed within a warm-up: hash %s, undisturbed %s", r.Hash, whole.Hash)
	}
	lockstep(t, 1, "train", "--out", out, "--resume", "--recipe", "imagenet-paper").says("--recipe cifar-paper, not imagenet-paper")
}
