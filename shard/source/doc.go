// Package source reads files at random wherever they lie. A location is a path or a URL.
//
//	f, err := source.Open(ctx, "train.tar", source.Options{})
//	err = f.ReadAt(ctx, buf, offset)
//	f.Close()
package source
