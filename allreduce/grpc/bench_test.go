package ringgrpc

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// BenchmarkReduce reduces ResNet-50's 25.6 M gradients, one replica a worker,
// over loopback, quantising and decoding included. It verifies the bits before
// it times. Bytes are those of the float32 values on one worker.
func BenchmarkReduce(b *testing.B) {
	const n = 25_557_032
	for _, size := range []int{2, 4} {
		all := gradients(size, n, 1)
		for _, wire := range []allreduce.Wire{32, 16} {
			bucket := allreduce.Bucket{Wire: wire}
			want := alone(b, bucket, all)
			b.Run(fmt.Sprintf("N=%d/wire=%d", size, wire), func(b *testing.B) {
				rings := joinAll(b, newWorkers(b, size, false), 1, size, nil)
				defer closeAll(b, rings)
				out := make([][]float32, size)
				for i := range out {
					out[i] = make([]float32, n)
				}
				bench(b, rings, bucket, all, out)
				for rank := range out {
					for i := range want {
						if math.Float32bits(out[rank][i]) != math.Float32bits(want[i]) {
							b.Fatalf("rank %d, value %d: %v, want %v", rank, i, out[rank][i], want[i])
						}
					}
				}
				b.SetBytes(4 * n)
				for b.Loop() {
					bucket.Step++
					bench(b, rings, bucket, all, out)
				}
			})
		}
	}
}

func bench(b *testing.B, rings []*allreduce.Ring, bucket allreduce.Bucket, all, out [][]float32) {
	errs := make(chan error, len(rings))
	for rank, r := range rings {
		go func() {
			errs <- r.Reduce(b.Context(), bucket, []allreduce.Contribution{{Replica: rank, Values: all[rank]}}, out[rank])
		}()
	}
	var err error
	for range rings {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		b.Fatal(err)
	}
}
