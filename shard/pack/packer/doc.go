// Package packer makes packed sets (package pack) out of any data set that package shard opens, shard by shard and in parallel.
//
//	report, err := packer.Pack(ctx, packer.Config{
//		Splits:     []packer.Split{{Name: "train", Data: train}, {Name: "val", Data: val}},
//		Out:        "imagenet-packed",
//		ShardBytes: 256 << 20,
//		Workers:    2,
//	})
//
// What it writes is a function of the data and the options alone, byte for byte: which samples a shard holds is planned before any is
// written, so the number of workers and their speed do not show. Interrupted, it is called again with the same options and keeps the
// shards that are finished, after reading and checking them.
package packer
