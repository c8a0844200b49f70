package reference

import (
	"sync"
	"sync/atomic"

	"github.com/lockstep-ml/lockstep/core"
)

// parallel calls f(0) .. f(n-1), sharing the calls out to the engine's threads as they come free, and returns when all are done.
// The calls may run in any order, so f(i) must write nothing that f(j) reads or writes.
func (e *Engine[F]) parallel(n int, f func(i int)) {
	threads := min(e.threads, n)
	if threads <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait() //bounded: the threads only compute
}

// addProduct adds A times B-transposed to C, for row-major matrices A [m, k], B [n, k] and C [m, n]:
//
//	C[i][j] = (((C[i][j] + A[i][0]*B[j][0]) + A[i][1]*B[j][1]) + ...) + A[i][k-1]*B[j][k-1]
//
// That is the one order of every convolution's and every linear layer's sums; the tiles decide only how many of
// these chains run side by side.
func (e *Engine[F]) addProduct(c, a, b []F, m, n, k int) {
	if len(c) != m*n || len(a) != m*k || len(b) != n*k {
		panic("reference: a product of matrices of the wrong size")
	}
	strip := max(1, min(16, (m+3)/4)) // rows of a to a call: few enough to stay in the cache, and four calls or more to share out
	e.parallel((m+strip-1)/strip, func(s int) {
		lo, hi := s*strip, min(s*strip+strip, m)
		rowsProduct(c[lo*n:hi*n], a[lo*k:hi*k], b, hi-lo, n, k)
	})
}

// rowsProduct takes b in its outer loop: b is the matrix that does not fit the cache.
func rowsProduct[F core.Float](c, a, b []F, m, n, k int) {
	j := 0
	for ; j+3 <= n; j += 3 {
		b := b[j*k : (j+3)*k]
		i := 0
		for ; i+2 <= m; i += 2 {
			tile2x3(c[i*n+j:], a[i*k:(i+2)*k], b, n, k)
		}
		for ; i < m; i++ {
			for r := range 3 {
				c[i*n+j+r] = dot(c[i*n+j+r], a[i*k:(i+1)*k], b[r*k:(r+1)*k])
			}
		}
	}
	for ; j < n; j++ {
		for i := range m {
			c[i*n+j] = dot(c[i*n+j], a[i*k:(i+1)*k], b[j*k:(j+1)*k])
		}
	}
}

// dot adds the products of two rows to sum, first to last.
func dot[F core.Float](sum F, a, b []F) F {
	b = b[:len(a)]
	for l, v := range a {
		sum += F(v * b[l])
	}
	return sum
}

// tile2x3 runs the chains of two rows of A and three of B side by side: one chain alone would spend its time
// waiting for the addition before. (Eight chains and their operands no longer fit the registers, and are slower.)
func tile2x3[F core.Float](c, a, b []F, n, k int) {
	a0, a1 := a[:k], a[k:][:k]
	b0, b1, b2 := b[:k], b[k:][:k], b[2*k:][:k]
	c0, c1 := c[:3], c[n:][:3]
	s00, s01, s02 := c0[0], c0[1], c0[2]
	s10, s11, s12 := c1[0], c1[1], c1[2]
	for l, x := range a0 {
		y := a1[l]
		w := b0[l]
		s00 += F(w * x)
		s10 += F(w * y)
		w = b1[l]
		s01 += F(w * x)
		s11 += F(w * y)
		w = b2[l]
		s02 += F(w * x)
		s12 += F(w * y)
	}
	c0[0], c0[1], c0[2] = s00, s01, s02
	c1[0], c1[1], c1[2] = s10, s11, s12
}

// transpose writes a [rows, cols] as to [cols, rows], in squares that stay in the cache.
func (e *Engine[F]) transpose(to, a []F, rows, cols int) {
	const side = 32
	e.parallel((cols+side-1)/side, func(s int) {
		lo, hi := s*side, min(s*side+side, cols)
		for r0 := 0; r0 < rows; r0 += side {
			r1 := min(r0+side, rows)
			for c := lo; c < hi; c++ {
				for r := r0; r < r1; r++ {
					to[c*rows+r] = a[r*cols+c]
				}
			}
		}
	})
}
