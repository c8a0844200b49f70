// Package fetch downloads a large file so that what arrives is whole, or is an error: over attempts that go on where the last one
// stopped, after a kill too, and against a checksum.
//
//	r, err := fetch.Get(ctx, fetch.Config{
//		URL:      "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
//		Path:     "cifar-10-binary.tar.gz",
//		MD5:      "c32a1d4ab5d03f1284b67883e8d87530",
//		MaxBytes: 1 << 30,
//	})
//
// What has arrived so far stands in Path.part, and what it is a part of in Path.part.json. Path itself appears whole and synced.
package fetch
