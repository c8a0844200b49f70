package main

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
)

type predictions struct {
	Images      int
	Predictions []prediction
}

// What predict says of a data set's images is what eval counts, under the run's own class names.
func TestPredict(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := filepath.Join(dir, "run")
	lockstep(t, 0, train(4, "--out", out)...)
	test := filepath.Join(shared.images(), "test")
	var r predictions
	lockstep(t, 0, "predict", "--json", "--weights", out, "--top", "2", test).lastLine(&r)
	var want evalResult
	lockstep(t, 0, "eval", "--json", "--weights", out, "--data", shared.images()).lastLine(&want)
	right := 0
	for _, p := range r.Predictions {
		if len(p.Top) != 2 || p.Top[0].Probability < p.Top[1].Probability || p.Top[0].Probability > 1 {
			t.Fatalf("%+v", p)
		}
		if filepath.Base(filepath.Dir(p.Image)) == p.Top[0].Name {
			right++
		}
	}
	if r.Images != 15 || right != want.Correct1 {
		t.Errorf("%d of %d right, eval has %d of %d", right, r.Images, want.Correct1, want.Images)
	}

	names, file := filepath.Join(dir, "names.txt"), filepath.Join(dir, "w.safetensors")
	write(t, names, []byte("one\ntwo\nthree\n"))
	image := r.Predictions[3]
	lockstep(t, 0, "checkpoint", "export", out, file)
	p := lockstep(t, 0, "predict", "--weights", file, "--classes", names, image.Image) // network and normalisation are the file's
	if line := p.stdout.String(); !strings.HasPrefix(line, image.Image+": "+[]string{"one", "two", "three"}[image.Top[0].Class]+" ") || strings.Count(line, "%") != 3 {
		t.Errorf("predict says %q, with numbers %+v", line, image)
	}
	bad := filepath.Join(dir, "bad.jpg")
	write(t, bad, []byte("no picture"))
	lockstep(t, 1, "predict", "--json", "--weights", out, bad, image.Image).says(bad, "1 of 2 images")
	lockstep(t, 1, "predict", "--weights", out, dir+"/none.jpg").says("none.jpg")
	lockstep(t, 1, "predict", "--weights", out, filepath.Join(out, "checkpoints")).says("no images in this folder")
	lockstep(t, 1, "predict", "--weights", out, "-", "-").says("twice")
	lockstep(t, 1, "predict", "--weights", out, "--classes", bad, image.Image).says("1 lines", "3 classes")
}

func TestProbabilities(t *testing.T) {
	net, err := resnet.Build("cifar-resnet8", 4)
	if err != nil {
		t.Fatal(err)
	}
	p := &predictor{trained: &trained{net: net, classes: []string{"a", "b"}}, top: 3}
	got := p.best([]float32{1, 1000, 1000, 1000 - float32(math.Ln2)}) // no overflow, and of equals the lower class first
	if got[0].Class != 1 || got[1].Class != 2 || got[2].Class != 3 || got[0].Name != "b" || got[1].Name != "" {
		t.Errorf("%+v", got)
	}
	for i, want := range []float64{.4, .4, .2} {
		if math.Abs(got[i].Probability-want) > 1e-4 {
			t.Errorf("place %d has probability %g, want %g", i, got[i].Probability, want)
		}
	}
}

// Fine-tuning draws the last layer by the run's seed, takes everything else, and refuses what does not fit for another reason.
func TestFreshHead(t *testing.T) {
	t.Parallel()
	m := untrained(t, "cifar-resnet8", 7, 0)
	arrays, err := checkpoint.ExportWeights(m.state, tableFor(m.net))
	if err != nil {
		t.Fatal(err)
	}
	net, err := resnet.Build("cifar-resnet8", 3)
	if err != nil {
		t.Fatal(err)
	}
	w := &weightsFile{path: "w.pth", arrays: arrays}
	s, notes, err := w.start(net, 5)
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "7 classes, the run has 3") {
		t.Fatalf("notes %q, error %v", notes, err)
	}
	fresh := freshState(net, 5)
	for _, p := range net.Params() {
		want := m.state.Params[p.Offset : p.Offset+p.Len] // the last layer is the last of all
		if p.Kind == core.LinearWeight || p.Kind == core.LinearBias {
			want = fresh.Params[p.Offset : p.Offset+p.Len]
		}
		if !slices.Equal(s.Params[p.Offset:p.Offset+p.Len], want) {
			t.Errorf("%s is not what it should start from", p.Name)
		}
	}
	if !slices.Equal(s.Mean, m.state.Mean) || !slices.Equal(s.Var, m.state.Var) {
		t.Error("statistics are not the file's")
	}
	if same, notes, err := w.start(m.net, 5); err != nil || len(notes) != 0 || !slices.Equal(same.Params, m.state.Params) {
		t.Errorf("with the file's classes: notes %q, error %v", notes, err)
	}
	other, err := resnet.Build("cifar-resnet14", 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.start(other, 5); err == nil || !strings.Contains(err.Error(), "layer1.1.conv1.weight is missing") {
		t.Errorf("a deeper network: %v", err)
	}
	narrow := slices.Clone(arrays)
	for i := range narrow {
		if narrow[i].Name == "fc.weight" {
			narrow[i].Shape = []int{14, 32}
		}
	}
	if _, _, err := (&weightsFile{path: "w", arrays: narrow}).start(net, 5); err == nil || !strings.Contains(err.Error(), "fc.weight has shape [14 32]") {
		t.Errorf("a last layer of another width: %v", err)
	}
}

// A run that starts from weights for other classes says so; from a checkpoint too.
func TestFineTune(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := untrained(t, "cifar-resnet8", 7, 0)
	file := filepath.Join(dir, "w.safetensors")
	if err := m.writeSafetensors(file); err != nil {
		t.Fatal(err)
	}
	lockstep(t, 0, "checkpoint", "import", file, filepath.Join(dir, "seven"))
	var hashes []string
	for _, from := range []string{file, checkpoints(t, filepath.Join(dir, "seven"))[0]} {
		p := lockstep(t, 0, train(2, "--init", from)...)
		p.says(from, "7 classes, the run has 3", "fc is drawn anew")
		hashes = append(hashes, p.report().Hash)
	}
	if hashes[0] != hashes[1] {
		t.Errorf("the same weights as safetensors and as a checkpoint train to %v", hashes)
	}
}
