package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/checkpoint/torch"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/core/resnet"
	"github.com/lockstep-ml/lockstep/internal/snapshot"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// weightsFile is a file of weights of any format, told by its content.
type weightsFile struct {
	path   string
	ckpt   *checkpoint.Checkpoint // nil: arrays and metadata
	arrays []checkpoint.Array
	meta   map[string]string // of safetensors
	torch  bool              // PyTorch's own format
}

// Names of the metadata that an export carries; the same in safetensors and ONNX.
const (
	metaPrefix  = "lockstep."
	metaArch    = metaPrefix + "arch"
	metaClasses = metaPrefix + "classes" // a JSON array of names
	metaHash    = metaPrefix + "hash"
	metaStep    = metaPrefix + "step"
)

// metaSettings are the settings that travel with weights: what else is needed to use them.
var metaSettings = []string{"arch", "mean", "std", "resolution", "augment"}

// openWeights reads a file of weights.
func openWeights(ctx context.Context, path string) (*weightsFile, error) {
	head, err := headOf(path)
	if err != nil {
		return nil, err
	}
	w := &weightsFile{path: path}
	switch {
	case checkpoint.Is(head):
		if w.ckpt, err = loadCheckpoint(ctx, path); err == nil {
			w.name()
		}
	case torch.Is(head):
		w.torch = true
		w.arrays, err = torch.Load(vfs.OS{}, path, checkpoint.DefaultMaxBytes)
	case len(head) > 8 && head[8] == '{':
		w.arrays, w.meta, err = checkpoint.LoadSafetensors(vfs.OS{}, path, checkpoint.DefaultMaxBytes)
	default:
		err = fmt.Errorf("weights %s: the file is none of safetensors, .pth (of torch.save) and .ckpt: it begins with % x; name a file of weights, or a run's folder", path, head)
	}
	if err != nil {
		return nil, err
	}
	return w, nil
}

// name says in the metadata which network a checkpoint is of.
func (w *weightsFile) name() {
	if _, s, err := recordOf(w.ckpt.Config); err == nil {
		w.meta = map[string]string{metaArch: s.arch}
	}
}

// headOf gives a file's first bytes.
func headOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 16)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return head[:n], errors.Join(err, f.Close())
}

// state gives the file's state for a network that it must fit.
func (w *weightsFile) state(n *core.Network) (*snapshot.Snapshot, error) {
	if w.ckpt != nil {
		s, err := w.ckpt.Snapshot(tableFor(n))
		if err != nil {
			return nil, fmt.Errorf("%s does not fit %s: %w", w.path, n.Name, err)
		}
		return s, nil
	}
	s := freshState(n, 0)
	if err := w.into(s, n, checkpoint.ImportOptions{}); err != nil {
		return nil, err
	}
	return s, nil
}

// start gives the state from which a run with that seed starts: the file's, but for a last layer that is drawn anew where the run has
// another number of classes. What people should know of it is in the notes.
func (w *weightsFile) start(n *core.Network, seed uint64) (*snapshot.Snapshot, []string, error) {
	notes := w.remarks(n)
	if w.ckpt != nil {
		w.arrays = w.ckpt.Weights()
	}
	s := freshState(n, seed)
	if err := w.into(s, n, checkpoint.ImportOptions{FreshHead: true}); err != nil {
		return nil, nil, err
	}
	if c := checkpoint.Classes(w.arrays); c != n.Classes {
		notes = append(notes, fmt.Sprintf("%s is for %d classes, the run has %d: fc is drawn anew from seed %d, everything else is the file's", w.path, c, n.Classes, seed))
	}
	return s, notes, nil
}

func (w *weightsFile) into(s *snapshot.Snapshot, n *core.Network, o checkpoint.ImportOptions) error {
	if err := checkpoint.ImportWeights(w.arrays, tableFor(n), s, o); err != nil {
		return fmt.Errorf("%s does not fit %s: %w", w.path, n.Name, err)
	}
	return nil
}

// remarks say where weights fit a network by their shapes, and may still not be meant for it.
func (w *weightsFile) remarks(n *core.Network) []string {
	from := w.meta[metaArch]
	if from != "" {
		if other, err := resnet.Build(from, n.Classes); err == nil && !sameLayers(other, n) {
			return []string{fmt.Sprintf("%s was exported from %s, which computes something else than %s", w.path, from, n.Name)}
		}
		return nil
	}
	sp, err := resnet.Parse(n.Name)
	if w.ckpt != nil || err != nil || !sp.Bottleneck || sp.StrideIn3x3 {
		return nil
	}
	return []string{fmt.Sprintf("%s: torchvision's bottlenecks have their stride in the 3x3 convolution: weights of its models are for %s-v1.5, not for the paper's %s", w.path, n.Name, n.Name)}
}

// sameLayers says whether two networks compute the same.
func sameLayers(a, b *core.Network) bool {
	return slices.EqualFunc(a.Nodes, b.Nodes, func(x, y core.Node) bool {
		return x.Op == y.Op && x.Name == y.Name && slices.Equal(x.Inputs, y.Inputs) && x.Channels == y.Channels && x.Kernel == y.Kernel && x.Stride == y.Stride && x.Pad == y.Pad
	})
}

// adopt takes the settings that came with the weights, where none was given.
func (w *weightsFile) adopt(s *settings) error {
	given := s.given()
	for _, name := range metaSettings {
		if _, ok := given[name]; ok || w.meta[metaPrefix+name] == "" {
			continue
		}
		if err := s.flags.Set(name, w.meta[metaPrefix+name]); err != nil {
			return fmt.Errorf("%s: metadata %s: %w", w.path, metaPrefix+name, err)
		}
	}
	if _, ok := given["arch"]; !ok && w.meta[metaArch] == "" {
		return fmt.Errorf("%s does not say which network it is for: give --arch, one of %s", w.path, strings.TrimSpace(resnet.Grammar))
	}
	return nil
}
