package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// texts gives the text of an SVG, all of which must parse.
func texts(t *testing.T, data []byte) string {
	t.Helper()
	var out []string
	paths := 0
	d := xml.NewDecoder(bytes.NewReader(data))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if tok.Name.Local == "path" {
				paths++
			}
		case xml.CharData:
			out = append(out, string(tok))
		}
	}
	if paths == 0 {
		t.Error("the SVG draws nothing")
	}
	return strings.Join(out, " ")
}

// TestChartsAreWritten draws charts with all that can be odd about lines, and reads both files back.
func TestChartsAreWritten(t *testing.T) {
	curve := []float64{0.9, 0.5, math.NaN(), 0.25}
	for name, c := range map[string]Chart{
		"lines": {Title: "networks", Note: "at 1 % of the paper's steps", X: "step", Y: "error, %", YMax: 1,
			Lines: []Line{{Label: "train <20>", X: []float64{1, 2, 3, 4}, Y: curve, Dashed: true}, {Label: "test", X: []float64{1, 2, 3, 4}, Y: curve, Bold: true, Color: 9}}},
		"logarithmic": {Title: "depth", X: "layers", LogX: true, Lines: []Line{{Label: "error", X: []float64{0, 20, 1202}, Y: []float64{1, 8, 7}, Points: true}}},
		"ticks":       {Title: "names", Ticks: map[float64]string{0: "A", 1: "B"}, Lines: []Line{{Label: "one", X: []float64{0, 1}, Y: []float64{1, 2}}}},
		"one point":   {Title: "one", Lines: []Line{{X: []float64{3}, Y: []float64{3}}}},
		"nothing":     {Title: "none", Lines: []Line{{Label: "empty", X: []float64{1}, Y: []float64{math.Inf(1)}}, {}}},
	} {
		base := filepath.Join(t.TempDir(), "chart")
		if err := c.Write(vfs.OS{}, base); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		svg, err := os.ReadFile(base + ".svg")
		if err != nil {
			t.Fatal(err)
		}
		said := texts(t, svg)
		for _, want := range []string{c.Title, c.Note, c.X, c.Y} {
			if !strings.Contains(said, want) {
				t.Errorf("%s: %q is not in the SVG's text %q", name, want, said)
			}
		}
		data, err := os.ReadFile(base + ".png")
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b := img.Bounds(); b.Dx() != 960 || b.Dy() != 600 {
			t.Errorf("%s: the PNG is %v", name, b)
		}
	}
}

func TestChartsAreRefused(t *testing.T) {
	base := filepath.Join(t.TempDir(), "chart")
	if err := (Chart{Lines: []Line{{Label: "odd", X: []float64{1}}}}).Write(vfs.OS{}, base); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Errorf("a line without values: %v", err)
	}
	if err := (Chart{}).Write(vfs.OS{}, filepath.Join(base, "no", "folder")); err == nil {
		t.Error("a folder that is not there was written to")
	}
}
