// Package shard turns a folder or an archive of images into the batches of a training run: it opens a data set, decides which
// image every (step, replica, place) uses, decodes and augments it, and does all that ahead of the training loop.
//
// What it promises: the float32 values of a batch are a function of (data set, Plan, Transform, step, replica) alone. Who reads
// them, in what order, with how many goroutines, and which other replicas sit in the same worker change nothing. Each image's
// augmentation is drawn from (seed, epoch, image index) by a counter-based generator (Draw), and the order of an epoch is a keyed
// permutation (Permutation) evaluated one index at a time, so no state has to be saved to resume: the step number is enough.
//
// The sample stream is continuous. Place p = step*GlobalBatch + replica*ReplicaBatch + i belongs to epoch p/Images, and there to
// place p%Images of that epoch's permutation. So every image is used exactly once an epoch, nothing is dropped or padded, and a
// batch may straddle two epochs.
//
// A caller opens a Dataset, makes a Loader, runs it, asks for one batch a step and gives each back:
//
//	ds, err := shard.Open(ctx, shard.Options{Path: "cifar10.tar.gz", Split: "train"})
//	loader, err := shard.NewLoader(shard.LoaderConfig{
//		Dataset:   ds,
//		Plan:      shard.Plan{Seed: 1, Images: ds.Len(), GlobalBatch: 256, Replicas: 8},
//		Transform: shard.CIFARTransform(true),
//	})
//	go func() { done <- loader.Run(ctx) }()
//	for step := uint64(0); step < steps; step++ {
//		b, err := loader.Next(ctx, step, []int{0, 3, 5}) // the replicas hosted here; may differ from step to step
//		images, labels := b.Replica(1)                   // replica 3
//		loader.Release(b)
//	}
//	loader.Close()
//	ds.Close()
//
// NewEval does the same for one pass over a split in fixed order.
package shard
