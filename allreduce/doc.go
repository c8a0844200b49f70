// Package allreduce averages the gradients of all replicas over a ring of
// workers and gives the same bits for any number of workers, any order of the
// ring and any assignment of replicas to workers.
//
// Floating-point addition does not associate, so the ring adds integers. Per
// bucket, one small pass round the ring (the exponent pass) agrees on a shared
// exponent for each block of 1024 values; each worker then turns its replicas'
// values into fixed-point integers on that scale, and the integers are summed
// by reduce-scatter and all-gather (the data pass). The integers are sized so
// that no partial sum can overflow, and integer addition is exact.
// docs/design/0002-exact-ring.md has the proof and the bytes on the wire.
//
// The ring is flat, or of two levels (Config.Group), which take fewer hops where
// there are many workers: rings of the workers in a group, and rings of those that
// have the same place in all groups.
//
// What the caller must do:
//
//   - give every worker of a generation the same Run, Generation, Size, Group and
//     Replicas, and the same Bucket for the same parameters;
//   - see to it that every replica 0..Replicas-1 is hosted by exactly one
//     worker; a worker that hosts none still calls Reduce, and relays;
//   - call Reduce for every bucket on every worker. Calls for different buckets
//     may run at the same time and should: the exponent pass of one then
//     overlaps the data pass of another;
//   - after any error other than a NonFiniteError, drop the ring and make a new
//     one with a higher generation. A failed ring is never resumed.
//
// A short example, one worker of a ring:
//
//	cfg := allreduce.DefaultConfig()
//	cfg.Run, cfg.Generation = "resnet20-seed1", 3
//	cfg.Rank, cfg.Size, cfg.Replicas = 0, 2, 8
//	ring, err := allreduce.New(cfg, transport) // transport: allreduce/grpc
//	if err != nil {
//		return err
//	}
//	defer ring.Close()
//	local := []allreduce.Contribution{{Replica: 0, Values: grad0}, {Replica: 1, Values: grad1}}
//	err = ring.Reduce(ctx, allreduce.Bucket{Step: 17, ID: 0}, local, mean)
package allreduce
