package shard

import (
	"errors"
	"fmt"
	"math"
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

// Colour is a family of colour augmentation in training.
type Colour uint8

const (
	// ColourNone leaves colours as they are.
	ColourNone Colour = iota
	// ColourLighting is the paper's "standard color augmentation": to every pixel a multiple of the principal components of ImageNet's
	// colours is added (Krizhevsky et al. 2012, section 4.1).
	ColourLighting
)

func (c Colour) String() string {
	if int(c) < len(colourNames) {
		return colourNames[c]
	}
	return fmt.Sprintf("Colour(%d)", uint8(c))
}

var colourNames = [...]string{"none", "lighting"}

// Transform says how an image becomes Resolution x Resolution normalised floats.
type Transform struct {
	Kind       Kind
	Train      bool       // augment at random; else the fixed views for evaluation
	Resolution int        // output height and width
	Pad        int        // KindCIFAR: pixels of padding on every side
	Mean, Std  [3]float32 // output = (value/255 - Mean) / Std
	// PixelMean is subtracted instead of Mean; nil: Mean is. KindCIFAR alone, whose padding is then 0 after it, as in the paper.
	PixelMean *PixelMean
	Colour    Colour // in training
	// Views is how many crops of an image are evaluated; 0 means 1. The ten of KindScale and KindResizedCrop are the corners, the centre
	// and their mirror images, in torchvision's order (TenCrop).
	Views int
	// Reduce lets a JPEG file be decoded at 1/2, 1/4 or 1/8 of its size where it is resized to yet less: faster, for pixels a little
	// different (Crop.Reduction).
	Reduce bool
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
	if int(t.Colour) >= len(colourNames) {
		errs = append(errs, fmt.Errorf("transform: %v is unknown", t.Colour))
	}
	errs = append(errs, t.validateViews())
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

func (t Transform) validateViews() error {
	var errs []error
	if t.Views != 0 && t.Views != 1 && t.Views != tenViews {
		errs = append(errs, fmt.Errorf("transform: %d views, want 1 or %d", t.Views, tenViews))
	}
	if t.Views > 1 && (t.Train || t.Kind == KindCIFAR) {
		errs = append(errs, fmt.Errorf("transform: %d views are for evaluation with %v or %v", t.Views, KindScale, KindResizedCrop))
	}
	if t.PixelMean != nil && (t.Kind != KindCIFAR || t.PixelMean.Resolution != t.Resolution) {
		errs = append(errs, fmt.Errorf("transform: a mean of every pixel goes with %v at its own resolution, here %d", KindCIFAR, t.PixelMean.Resolution))
	}
	return errors.Join(errs...)
}

// tenViews is the larger number of views.
const tenViews = 10

// ViewCount is how many views an image has: 1 or 10.
func (t Transform) ViewCount() int { return max(1, t.Views) }

// Values is the number of floats of one image, of all its views: ViewCount * 3 * Resolution * Resolution.
func (t Transform) Values() int { return t.ViewCount() * 3 * t.Resolution * t.Resolution }
