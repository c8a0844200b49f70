package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-ml/lockstep/core/resnet"
)

// recipe is a set of published hyper-parameters: a value for each setting that it fixes. What a flag gives goes before.
type recipe struct {
	source   string
	settings map[string]string
	// warmup is for networks that do not start to learn at the full rate; empty for none.
	warmup func(resnet.Spec) string
}

// The recipes by name. What the papers leave open is chosen here and said so in docs/experiments.md: replicas of 32 images for ImageNet
// and of 64 for CIFAR (two GPUs shared a batch of 128), how a plateau is seen, and how often to evaluate.
var recipes = map[string]recipe{
	"imagenet-paper": {
		source: "He et al. 2015, section 3.4",
		settings: map[string]string{
			"arch": "resnet50", "batch": "256", "replica-batch": "32", "steps": "600000", "lr": "0.1", "schedule": "plateau:patience=5",
			"momentum": "0.9", "weight-decay": "0.0001", "augment": "scale", "eval-every": "1e",
		},
	},
	"cifar-paper": {
		source: "He et al. 2015, section 4.2",
		settings: map[string]string{
			"arch": "cifar-resnet20", "batch": "128", "replica-batch": "64", "steps": "64000", "lr": "0.1", "schedule": "steps:32000,48000",
			"momentum": "0.9", "weight-decay": "0.0001", "augment": "cifar", "eval-every": "1e",
		},
		warmup: func(s resnet.Spec) string {
			if s.Blocks[0] < 18 { // n = 18 is the paper's 110 layers, the first that it warms up
				return ""
			}
			return "error:80%@0.01"
		},
	},
	"imagenet-modern": {
		source: "torchvision's reference, references/classification/train.py with its defaults",
		settings: map[string]string{
			"arch": "resnet50-v1.5", "batch": "256", "replica-batch": "32", "epochs": "90", "lr": "0.1", "schedule": "steps:30e,60e",
			"momentum": "0.9", "weight-decay": "0.0001", "augment": "resized-crop", "eval-every": "1e",
		},
	},
}

func recipeNames() string { return strings.Join(slices.Sorted(maps.Keys(recipes)), ", ") }

// applyRecipe fills in what the recipe fixes and nobody has given. It names the settings that it was overruled in.
func applyRecipe(s *settings) (overruled []string, err error) {
	if s.recipe == "" {
		return nil, nil
	}
	r, ok := recipes[s.recipe]
	if !ok {
		return nil, fmt.Errorf("--recipe %s is unknown: the recipes are %s", s.recipe, recipeNames())
	}
	given := s.given()
	_, steps := given["steps"]
	_, epochs := given["epochs"]
	set := func(name, v string) {
		length := (name == "steps" || name == "epochs") && (steps || epochs)
		if had, ok := given[name]; ok && had != v || length {
			overruled = append(overruled, name)
		} else if err := s.flags.Set(name, v); err != nil {
			panic(fmt.Sprintf("lockstep: recipe %s: %s: %v", s.recipe, name, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.settings)) {
		set(name, r.settings[name])
	}
	spec, err := resnet.Parse(s.arch)
	if err != nil {
		return nil, err
	}
	if r.warmup != nil && r.warmup(spec) != "" {
		set("warmup", r.warmup(spec))
	}
	return overruled, nil
}

// describe lists every setting, for a run's start.
func (s *settings) describe(overruled []string) []string {
	var lines []string
	if r, ok := recipes[s.recipe]; ok {
		line := fmt.Sprintf("recipe %s: %s", s.recipe, r.source)
		if len(overruled) > 0 {
			line += "; otherwise than it says: " + strings.Join(overruled, ", ")
		}
		lines = append(lines, line)
	}
	values := s.values()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if v := values[name]; v != "" {
			if strings.ContainsAny(v, " \t") {
				v = strconv.Quote(v)
			}
			all = append(all, name+"="+v)
		}
	}
	return append(lines, "settings: "+strings.Join(all, " "))
}
