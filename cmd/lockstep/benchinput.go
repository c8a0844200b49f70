package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/shard"
)

// inputOptions is what is to be measured.
type inputOptions struct {
	data, split, transform string
	resolution, threads    int
	images, rounds         int
	decodeOnly, asJSON     bool
	sumOnly                bool // print the check's sum and end: a process of another family
}

// The transforms by the name a user gives.
var inputTransforms = map[string]shard.Transform{
	"resized-crop": {Kind: shard.KindResizedCrop, Train: true},
	"scale":        {Kind: shard.KindScale, Train: true},
	"centre":       {Kind: shard.KindScale},
	"cifar":        {Kind: shard.KindCIFAR, Train: true, Pad: 4},
}

const inputLong = `Times what the input pipeline does to each image: read, decode, crop, resize, mirror, normalise. Whole images are decoded beside it, without
anything else. The median round counts.

Before anything is timed, the first images are made by one thread, by all, and by processes that use each family of kernels that this
machine has: the sums of all bits must be the same.

  images_per_second          decoding and augmentation; with --decode-only, decoding whole images
  mb_per_second              bytes of image files a second in that
  decode_images_per_second   decoding whole images
  cpu_ms_per_image           processor time of an image, user and system, in the mean: what to compare on a machine that others use
  decode_share               part of the time of decoding and augmentation that goes into decoding, of no more of an image than its crop takes
  fallbacks                  files that were left to the standard library's decoder, by what made them special`

func benchInput() *cobra.Command {
	var o inputOptions
	cmd := &cobra.Command{
		Use:   "input --data PATH",
		Short: "Time decoding and augmentation of images, after a check that threads and kernels make the same bits",
		Long:  inputLong,
		Example: `  lockstep bench input --data imagenet.tar --threads 1 --json
  lockstep bench input --data imagenet.tar --transform scale
  lockstep bench input --data imagenet.tar --decode-only --threads 4
  lockstep bench input --data builtin --transform cifar --resolution 32`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.data, "data", "", "data set, as for lockstep train")
	f.StringVar(&o.split, "split", "train", "which images: train, test, val or all")
	f.StringVar(&o.transform, "transform", "resized-crop", "what is done to them: resized-crop, scale or cifar as in training, or centre as in evaluation")
	f.IntVar(&o.resolution, "resolution", 224, "side of the result")
	f.IntVar(&o.threads, "threads", 0, "cores; 0: all")
	f.IntVar(&o.images, "images", 512, "images of a round, spread evenly over the data set; fewer where it has fewer")
	f.IntVar(&o.rounds, "rounds", 7, "rounds to time, after one to warm up")
	f.BoolVar(&o.decodeOnly, "decode-only", false, "only decode, whole images")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	f.BoolVar(&o.sumOnly, "sum-only", false, "print the sum of the first images and end")
	if err := errors.Join(f.MarkHidden("sum-only"), cmd.MarkFlagRequired("data")); err != nil {
		panic(err) // the flags are defined above
	}
	return cmd
}

// validate reports everything wrong that can be seen at once, and gives the transform.
func (o *inputOptions) validate() (shard.Transform, error) {
	var errs []error
	t, ok := inputTransforms[o.transform]
	if !ok {
		errs = append(errs, fmt.Errorf("--transform %s: there are resized-crop, scale, centre and cifar", o.transform))
	}
	t.Resolution, t.Mean, t.Std = o.resolution, shard.ImageNetMean, shard.ImageNetStd
	errs = append(errs, t.Validate())
	if o.images < 1 || o.rounds < 1 || o.threads < 0 || o.threads > 1024 {
		errs = append(errs, fmt.Errorf("--images %d and --rounds %d must be positive, --threads %d 0 to 1024", o.images, o.rounds, o.threads))
	}
	if o.threads == 0 {
		o.threads = runtime.GOMAXPROCS(0)
	}
	return t, errors.Join(errs...)
}

func (o *inputOptions) run(cmd *cobra.Command) error {
	t, err := o.validate()
	if err != nil {
		return err
	}
	ds, err := shard.Open(cmd.Context(), shard.Options{Path: o.data, Split: o.split})
	if err != nil {
		return err
	}
	defer ds.Close() // only read from
	b := &inputBench{o: o, ds: ds, t: t}
	if o.sumOnly {
		sum, err := b.sum(cmd.Context(), 1)
		if err == nil {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), sum)
		}
		return err
	}
	sum, err := b.check(cmd.Context())
	if err != nil {
		return err
	}
	r, err := b.measure(cmd.Context())
	if err != nil {
		return err
	}
	r.Sum = sum
	if o.asJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	return r.print(cmd.OutOrStdout())
}

// inputReport is what `lockstep bench input` reports.
type inputReport struct {
	ImagesPerSecond       float64        `json:"images_per_second"`
	MBPerSecond           float64        `json:"mb_per_second"`
	DecodeImagesPerSecond float64        `json:"decode_images_per_second"`
	DecodeMBPerSecond     float64        `json:"decode_mb_per_second"`
	CPU                   float64        `json:"cpu_ms_per_image"`
	DecodeCPU             float64        `json:"decode_cpu_ms_per_image"`
	DecodeShare           float64        `json:"decode_share,omitempty"`
	Fallbacks             map[string]int `json:"fallbacks"`
	Transform             string         `json:"transform"`
	Resolution            int            `json:"resolution"`
	Threads               int            `json:"threads"`
	Images                int            `json:"images"` // of a round
	Rounds                int            `json:"rounds"`
	Sum                   string         `json:"sum"` // SHA-256 of the first images' bits
}

func (r *inputReport) print(w io.Writer) error {
	var left []string
	for kind, n := range r.Fallbacks {
		left = append(left, fmt.Sprintf("%d of %s", n, kind))
	}
	slices.Sort(left)
	if left == nil {
		left = []string{"none"}
	}
	if r.DecodeShare > 0 {
		if _, err := fmt.Fprintf(w, "%s to %dx%d, %d threads: %.0f img/s, %.1f MB/s of files, %.3f ms of a core an image, %.0f %% of it decoding\n",
			r.Transform, r.Resolution, r.Resolution, r.Threads, r.ImagesPerSecond, r.MBPerSecond, r.CPU, 100*r.DecodeShare); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "whole images decoded, %d threads: %.0f img/s, %.1f MB/s of files, %.3f ms of a core an image\nleft to the standard library's decoder: %s\n"+
		"%d images a round, median of %d; the first images' bits are the same with every thread count and every family of kernels: %.12s\n",
		r.Threads, r.DecodeImagesPerSecond, r.DecodeMBPerSecond, r.DecodeCPU, strings.Join(left, ", "), r.Images, r.Rounds, r.Sum)
	return err
}
