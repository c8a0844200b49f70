package experiment

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/runfolder"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

func mustPlan(t *testing.T, o Options) *Plan {
	t.Helper()
	p, err := o.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestNetworksAreThePapers lists the networks that each experiment of the paper has.
func TestNetworksAreThePapers(t *testing.T) {
	for _, c := range []struct {
		kind   Kind
		family Family
		want   string
	}{
		{Degradation, ImageNet, "plain18 resnet18-A plain34 resnet34-A"},
		{Degradation, CIFAR, "cifar-plain20 cifar-resnet20 cifar-plain32 cifar-resnet32 cifar-plain44 cifar-resnet44 cifar-plain56 cifar-resnet56 cifar-plain110 cifar-resnet110"},
		{Depth, CIFAR, "cifar-resnet20 cifar-resnet32 cifar-resnet44 cifar-resnet56 cifar-resnet110 cifar-resnet1202"},
		{Shortcuts, ImageNet, "resnet34-A resnet34-B resnet34-C"},
		{LayerResponses, CIFAR, "cifar-plain20 cifar-resnet20 cifar-plain56 cifar-resnet56 cifar-resnet110"},
	} {
		var got []string
		for _, n := range mustPlan(t, Options{Kind: c.kind, Family: c.family}).Networks {
			got = append(got, n.Arch)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s, %s: %v, want %s", c.kind, c.family, got, c.want)
		}
	}
}

// TestPapersFigures holds some figures of each table against the paper's print.
func TestPapersFigures(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		arch string
		want string
	}{
		{Degradation, "plain34", "28.54 (Table 2)"}, {Degradation, "resnet34-A", "25.03 (Table 2)"}, {Degradation, "resnet18-A", "27.88 (Table 2)"},
		{Degradation, "plain18", "27.94 (Table 2)"}, {Shortcuts, "resnet34-B", "24.52 / 7.46 (Table 3)"}, {Shortcuts, "resnet34-C", "24.19 / 7.40 (Table 3)"},
		{Depth, "resnet152", "21.43 / 5.71 (Table 3)"}, {Depth, "cifar-resnet1202", "7.93 (Table 6)"}, {Depth, "cifar-resnet20", "8.75 (Table 6)"},
		{Degradation, "cifar-resnet56", "6.97 (Table 6)"}, {Degradation, "cifar-plain20", "-"},
	} {
		if got := paper(c.kind, c.arch).String(); got != c.want {
			t.Errorf("%s in %s: %q, want %q", c.arch, c.kind, got, c.want)
		}
	}
}

// TestBudgetMovesTheRates: a run of a tenth of the length divides the rate after a tenth of the steps, and says so.
func TestBudgetMovesTheRates(t *testing.T) {
	n := Network{Arch: "cifar-resnet20"}
	for _, c := range []struct {
		o     Options
		want  string
		scope string
	}{
		{Options{Kind: Depth}, "", "whole length"},
		{Options{Kind: Depth, Budget: 0.1}, "--steps 6400 --schedule steps:50%,75%", "budget 0.1"},
		{Options{Kind: Depth, Steps: 640}, "--steps 640 --schedule steps:50%,75%", "budget 0.01"},
		{Options{Kind: Depth, Family: ImageNet, Budget: 0.5}, "--steps 300000", "budget 0.5"}, // the plateau's rule needs no move
		{Options{Kind: Depth, Family: ImageNet, Recipe: "imagenet-modern", Budget: 0.1}, "--epochs 9 --schedule steps:33.3", "budget 0.1"},
		{Options{Kind: Depth, Recipe: "imagenet-modern", Steps: 9}, "--steps 9 --schedule steps:33.3", "--steps 9"},
	} {
		p := mustPlan(t, c.o)
		flags := strings.Join(p.Flags(n), " ")
		if !strings.HasSuffix(flags, c.want) && !strings.Contains(flags, c.want) || c.want == "" && strings.Contains(flags, "--steps") {
			t.Errorf("%+v: flags %q, want %q in them", c.o, flags, c.want)
		}
		if every := map[float64]string{1: "1%", 0.5: "1%", 0.1: "2%", 0.01: "10%", 0: "5%"}[p.Budget]; !strings.Contains(flags, "--eval-every "+every) {
			t.Errorf("%+v: flags %q, want an evaluation every %s", c.o, flags, every)
		}
		if !strings.Contains(p.Scope(), c.scope) {
			t.Errorf("%+v: scope %q, want %q in it", c.o, p.Scope(), c.scope)
		}
	}
	for _, bad := range []Options{{Kind: "other"}, {Kind: Depth, Budget: math.NaN()}, {Kind: Depth, Budget: -1}, {Kind: Depth, Recipe: "r"}, {Kind: Depth, Family: "f"},
		{Kind: Depth, Depths: []int{0}}, {Kind: Depth, Steps: 1, Budget: 0.5}} {
		if _, err := bad.Plan(); err == nil {
			t.Errorf("%+v was planned", bad)
		}
	}
}

// rows are a run of six steps with evaluations after 3 and 6.
func rows() []runfolder.Row {
	var out []runfolder.Row
	for step := uint64(1); step <= 6; step++ {
		r := runfolder.Row{Step: step, TrainError: runfolder.Known(1 - float64(step)/8)}
		if step%3 == 0 {
			r.TestTop1, r.TestTop5 = runfolder.Known(0.75-float64(step)/24), runfolder.Known(0.875)
		}
		out = append(out, r)
	}
	return out
}

func TestFind(t *testing.T) {
	f := Find(Network{Arch: "cifar-resnet20"}, 20, &runfolder.Run{Parameters: 7}, rows())
	if f.Steps != 6 || f.TestError != 50 || f.BestError != 37.5 || f.Test5Error != 12.5 || f.TrainError != 37.5 || f.Parameters != 7 {
		t.Errorf("found %+v", f)
	}
	if want := []Point{{3, 75, 37.5}, {6, 37.5, 50}}; !slices.Equal(f.Curve, want) {
		t.Errorf("curve %v, want %v", f.Curve, want)
	}
	empty := Find(Network{}, 0, &runfolder.Run{}, nil)
	if !math.IsNaN(empty.TestError) || len(empty.Curve) != 0 {
		t.Errorf("of nothing: %+v", empty)
	}
}

func TestCurvesComeBack(t *testing.T) {
	found := []Finding{{Network: Network{Arch: "a"}, Curve: []Point{{1, 50, 25.125}, {2, 12.5, math.NaN()}}}, {Network: Network{Arch: "b"}, Curve: []Point{{3, 1, 2}}}}
	var b bytes.Buffer
	if err := WriteCurves(&b, found); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	again, err := ReadCurves(&b)
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != 2 || again["a"][0] != found[0].Curve[0] || !math.IsNaN(again["a"][1].TestError) || again["b"][0] != found[1].Curve[0] {
		t.Errorf("came back as %v:\n%s", again, text)
	}
	for _, bad := range []string{"", "x\n", "network,step,train_error,test_error\na,b,1,2\n", "network,step,train_error,test_error\na,1,y,2\n"} {
		if _, err := ReadCurves(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// TestEverythingIsWritten writes each kind's folder, also of an experiment that is not through.
func TestEverythingIsWritten(t *testing.T) {
	for _, kind := range []Kind{Degradation, Depth, Shortcuts} {
		p := mustPlan(t, Options{Kind: kind, Budget: 0.25, Depths: []int{20, 32}})
		dir := t.TempDir()
		var found []Finding
		for i, n := range p.Networks[:len(p.Networks)-1] {
			found = append(found, Find(n, 20+12*i, &runfolder.Run{}, rows()))
		}
		if err := p.Write(vfs.OS{}, dir, found); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, ReportName))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"still to be trained: 1 of", "not of the paper's length", "budget 0.25", "](" + p.pictures(found)[0].name + ".svg)"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: no %q in the report:\n%s", kind, want, text)
			}
		}
		for _, pic := range p.pictures(found) {
			if !strings.Contains(pic.chart.Note, "budget 0.25") {
				t.Errorf("%s, %s does not say that it is not the whole length: %q", kind, pic.name, pic.chart.Note)
			}
		}
	}
}

func TestResponsesAreWritten(t *testing.T) {
	p := mustPlan(t, Options{Kind: LayerResponses})
	dir := t.TempDir()
	all := []Responses{{Arch: "a", Weights: "w", Layers: []string{"conv1", "conv2", "conv3"}, Std: []float64{0.5, 2, 2}}}
	if err := p.WriteResponses(vfs.OS{}, dir, nil, all); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, ResponsesName))
	if err != nil {
		t.Fatal(err)
	}
	if want := "network,layer,name,std,rank\na,1,conv1,0.5,3\na,2,conv2,2,1\na,3,conv3,2,2\n"; string(got) != want {
		t.Errorf("responses are\n%swant\n%s", got, want)
	}
	if got := sorted(all[0].Std); !slices.Equal(got, []float64{2, 2, 0.5}) {
		t.Errorf("sorted: %v", got)
	}
}
