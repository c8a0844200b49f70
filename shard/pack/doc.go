// Package pack is the format that Lockstep keeps large data sets in: shards that are plain tar files in WebDataset's manner, and one
// index that knows every sample's place, label and checksum. A sample is one read at a known offset, and opening a set of a million
// costs the reading of one file. docs/design/0011-shard-format.md gives the bytes and the reasons.
//
//	set, err := pack.Open(ctx, "imagenet-packed", open)
//	train := set.Split("train")
//	b, err := train.Read(ctx, 17, buf) // checked against its CRC-32C
//	err = set.Close()
//
// Everything in an index is bounded and checked before it is believed: its lengths by the file's true size, its offsets by the shards'.
// Package packer makes such sets.
package pack
