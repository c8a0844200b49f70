package shard

import (
	"errors"
	"fmt"
	"math"

	"github.com/lockstep-ml/lockstep/shard/raster"
)

// Kind is a family of augmentation.
type Kind uint8

const (
	// KindCIFAR is the paper's section 4.2. Training: Pad black pixels on every side, a random crop of the resolution, a flip with
	// probability 1/2. Evaluation: the image itself. An image of another size is resized to the resolution first.
	KindCIFAR Kind = iota
	// KindScale is the paper's section 3.4 for ImageNet, stated for resolution 224 and scaled for others. Training: shorter side
	// resized to a whole number drawn from 256..480, a random crop, a flip. Evaluation: shorter side 256, centre crop.
	KindScale
	// KindResizedCrop trains like torchvision's RandomResizedCrop: an area of 8..100 % and a ratio of 3/4..4/3 of the image, resized
	// to the resolution, and a flip. Evaluation is KindScale's.
	KindResizedCrop
)

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

var kindNames = [...]string{"cifar", "scale", "resized-crop"}

// Default channel means and standard deviations (red, green, blue; of values in 0..1), of CIFAR-10's and ImageNet's training sets.
var (
	CIFARMean    = [3]float32{0.4914, 0.4822, 0.4465}
	CIFARStd     = [3]float32{0.2470, 0.2435, 0.2616}
	ImageNetMean = [3]float32{0.485, 0.456, 0.406}
	ImageNetStd  = [3]float32{0.229, 0.224, 0.225}
)

// Transform says how an image becomes Resolution x Resolution normalised floats.
type Transform struct {
	Kind       Kind
	Train      bool       // augment at random; else the fixed view for evaluation
	Resolution int        // output height and width
	Pad        int        // KindCIFAR: pixels of padding on every side
	Mean, Std  [3]float32 // output = (value/255 - Mean) / Std
}

// CIFARTransform is the paper's for 32x32 images.
func CIFARTransform(train bool) Transform {
	return Transform{Kind: KindCIFAR, Train: train, Resolution: 32, Pad: 4, Mean: CIFARMean, Std: CIFARStd}
}

// ImageNetTransform is KindResizedCrop at 224x224. Set Kind to KindScale for the paper's own.
func ImageNetTransform(train bool) Transform {
	return Transform{Kind: KindResizedCrop, Train: train, Resolution: 224, Mean: ImageNetMean, Std: ImageNetStd}
}

// maxResolution bounds what a wrong flag can ask for.
const maxResolution = 4096

// Validate reports every fault of the transform at once.
func (t Transform) Validate() error {
	var errs []error
	if int(t.Kind) >= len(kindNames) {
		errs = append(errs, fmt.Errorf("transform: %v is unknown", t.Kind))
	}
	if t.Resolution < 1 || t.Resolution > maxResolution {
		errs = append(errs, fmt.Errorf("transform: resolution %d, want 1..%d", t.Resolution, maxResolution))
	}
	if t.Pad < 0 || t.Pad > maxResolution {
		errs = append(errs, fmt.Errorf("transform: padding %d, want 0..%d", t.Pad, maxResolution))
	}
	for c := range 3 {
		if m := float64(t.Mean[c]); math.IsNaN(m) || math.IsInf(m, 0) {
			errs = append(errs, fmt.Errorf("transform: mean[%d] is %v, want a finite number", c, m))
		}
		if s := float64(t.Std[c]); !(s > 0) || math.IsInf(s, 0) {
			errs = append(errs, fmt.Errorf("transform: std[%d] is %v, want a finite number above 0", c, s))
		}
	}
	return errors.Join(errs...)
}

// Values is the number of floats of one image: 3 * Resolution * Resolution.
func (t Transform) Values() int { return 3 * t.Resolution * t.Resolution }

// An Augmenter applies a Transform. It keeps scratch memory, so each goroutine needs its own.
type Augmenter struct {
	t       Transform
	lut     [3][256]float32 // normalised value of every byte: the same float32 steps as PyTorch's ToTensor and Normalize
	resize  raster.Resampler
	resized raster.Image
}

// NewAugmenter panics when t is not valid; Validate first what comes from outside.
func NewAugmenter(t Transform) *Augmenter {
	if err := t.Validate(); err != nil {
		panic("shard: " + err.Error())
	}
	a := &Augmenter{t: t}
	for c := range 3 {
		for v := range 256 {
			x := float32(v) / 255
			a.lut[c][v] = float32(x-t.Mean[c]) / t.Std[c]
		}
	}
	return a
}

// Apply writes the transformed image into dst: Values() floats, planes red, green, blue, each Resolution rows of Resolution.
// The numbers are drawn from d in an order that depends on the Transform alone.
func (a *Augmenter) Apply(dst []float32, img *raster.Image, d Draw) {
	if len(dst) != a.t.Values() {
		panic(fmt.Sprintf("shard: destination of %d floats, want %d", len(dst), a.t.Values()))
	}
	switch {
	case a.t.Kind == KindCIFAR:
		a.cifar(dst, img, &d)
	case !a.t.Train:
		a.centre(dst, img)
	case a.t.Kind == KindScale:
		a.scale(dst, img, &d)
	default:
		a.resizedCrop(dst, img, &d)
	}
}

func (a *Augmenter) cifar(dst []float32, img *raster.Image, d *Draw) {
	n := a.t.Resolution
	if img.W != n || img.H != n {
		a.resize.Resample(&a.resized, img, raster.Box(0, 0, img.W, img.H), n, n, raster.Box(0, 0, n, n))
		img = &a.resized
	}
	if !a.t.Train {
		a.emit(dst, img, 0, 0, false)
		return
	}
	y := d.IntN(2*a.t.Pad+1) - a.t.Pad
	x := d.IntN(2*a.t.Pad+1) - a.t.Pad
	a.emit(dst, img, x, y, d.Uint64()>>63 == 1)
}

// side scales a length that the paper states for resolution 224, rounding to nearest.
func (a *Augmenter) side(at224 int) int { return (at224*a.t.Resolution + 112) / 224 }

// scale resizes the shorter side to a random length and crops at random.
func (a *Augmenter) scale(dst []float32, img *raster.Image, d *Draw) {
	n, lo, hi := a.t.Resolution, a.side(256), a.side(480)
	w, h := shorterTo(img.W, img.H, lo+d.IntN(hi-lo+1))
	y := d.IntN(h - n + 1)
	x := d.IntN(w - n + 1)
	a.resize.Resample(&a.resized, img, raster.Box(0, 0, img.W, img.H), w, h, raster.Box(x, y, n, n))
	a.emit(dst, &a.resized, 0, 0, d.Uint64()>>63 == 1)
}

// centre is torchvision's Resize(256) and CenterCrop(224).
func (a *Augmenter) centre(dst []float32, img *raster.Image) {
	n := a.t.Resolution
	w, h := shorterTo(img.W, img.H, a.side(256))
	// torchvision rounds half to even here: int(round((h - n) / 2.0)).
	x, y := int(math.RoundToEven(float64(w-n)/2)), int(math.RoundToEven(float64(h-n)/2))
	a.resize.Resample(&a.resized, img, raster.Box(0, 0, img.W, img.H), w, h, raster.Box(x, y, n, n))
	a.emit(dst, &a.resized, 0, 0, false)
}

// shorterTo scales w x h so that the shorter side is s and the other is cut to whole pixels, as torchvision's Resize does.
func shorterTo(w, h, s int) (int, int) {
	if w <= h {
		return s, s * h / w
	}
	return s * w / h, s
}

// resizedCrop draws area and ratio up to ten times until the box fits, as torchvision does, and else falls back to the centre.
func (a *Augmenter) resizedCrop(dst []float32, img *raster.Image, d *Draw) {
	box := centreBox(img.W, img.H)
	for range 10 {
		area := float64(img.W) * float64(img.H) * (0.08 + float64(0.92*d.Float64()))
		ratio := expSmall(float64((2*d.Float64() - 1) * logFourThirds))
		w, h := int(math.RoundToEven(math.Sqrt(area*ratio))), int(math.RoundToEven(math.Sqrt(area/ratio)))
		if w > 0 && h > 0 && w <= img.W && h <= img.H {
			y := d.IntN(img.H - h + 1)
			x := d.IntN(img.W - w + 1)
			box = raster.Box(x, y, w, h)
			break
		}
	}
	n := a.t.Resolution
	a.resize.Resample(&a.resized, img, box, n, n, raster.Box(0, 0, n, n))
	a.emit(dst, &a.resized, 0, 0, d.Uint64()>>63 == 1)
}

// centreBox is the largest centred box with a ratio in 3/4..4/3.
func centreBox(w, h int) raster.Rect {
	bw, bh := w, h
	if 3*w > 4*h {
		bw = max(1, (4*h+1)/3)
	} else if 4*w < 3*h {
		bh = max(1, (4*w+1)/3)
	}
	return raster.Box((w-bw)/2, (h-bh)/2, bw, bh)
}

const logFourThirds = 0.28768207245178092743921900599383

// expSmall is e^x for |x| < 0.3 by its series. math.Exp is written in assembly of its own on each CPU and differs in the last bit;
// this gives the same crop everywhere.
func expSmall(x float64) float64 {
	sum := 1.0
	for k := 14; k >= 1; k-- {
		sum = 1 + float64(float64(x*sum)/float64(k))
	}
	return sum
}

// emit normalises the window of dst's size that starts at (x0, y0) of img, which may reach outside: there the image is black,
// before normalisation, as the paper and torchvision pad.
func (a *Augmenter) emit(dst []float32, img *raster.Image, x0, y0 int, flip bool) {
	n := a.t.Resolution
	plane := n * n
	for y := range n {
		row := [3][]float32{}
		for c := range row {
			row[c] = dst[c*plane+y*n : c*plane+(y+1)*n]
		}
		sy := y + y0
		from, to := max(0, -x0), min(n, img.W-x0) // columns of the window that lie inside the image
		if sy < 0 || sy >= img.H || from >= to {
			from, to = n, n
		}
		a.fill(row, 0, from)
		a.fill(row, to, n)
		if from < to {
			src := img.Pix[3*(sy*img.W+x0+from) : 3*(sy*img.W+x0+to)]
			a.normalise(row[0][from:to], row[1][from:to], row[2][from:to], src)
		}
		if flip {
			for _, r := range row {
				reverse(r)
			}
		}
	}
}

func (a *Augmenter) fill(row [3][]float32, from, to int) {
	for c, r := range row {
		black := a.lut[c][0]
		for i := from; i < to; i++ {
			r[i] = black
		}
	}
}

func (a *Augmenter) normalise(r, g, b []float32, src []byte) {
	for i := range r {
		p := src[3*i : 3*i+3 : 3*i+3]
		r[i], g[i], b[i] = a.lut[0][p[0]], a.lut[1][p[1]], a.lut[2][p[2]]
	}
}

func reverse(r []float32) {
	for i, j := 0, len(r)-1; i < j; i, j = i+1, j-1 {
		r[i], r[j] = r[j], r[i]
	}
}
