// Package source reads files at random wherever they lie: on this machine, behind HTTP, in S3 or in Google Cloud Storage. A
// location is a path or a URL (file, http, https, s3, gs).
//
//	f, err := source.Open(ctx, "s3://bucket/train.tar?region=eu-central-1", source.Options{})
//	err = f.ReadAt(ctx, buf, offset)
//	f.Close()
//
// Who opens many files makes one Opener for them, which shares connections, the bound on requests and the cache:
//
//	o, err := source.NewOpener(source.Options{Cache: "/var/cache/lockstep", CacheSize: 200 << 30})
//	err = o.List(ctx, "s3://bucket/train", func(e source.Entry) error { ... })
//	f, err := o.OpenEntry(ctx, e) // asks nothing: e says size and version
//	o.Close()
//
// A read either gives all its bytes, of the version of the file that was opened, or fails with a *ReadError. Failures that may pass
// (a broken connection, a server that is busy, no byte for a while) are tried again, a bounded number of times; what was read
// before is kept. Nothing is started that outlives a call.
package source
