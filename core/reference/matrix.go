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
	wg.Wait()
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
	const strip = 16 // rows of a to a call: enough of them for the threads, few enough calls
	e.parallel((m+strip-1)/strip, func(s int) {
		lo, hi := s*strip, min(s*strip+strip, m)
		rowsProduct(c[lo*n:hi*n], a[lo*k:hi*k], b, hi-lo, n, k)
	})
}

func rowsProduct[F core.Float](c, a, b []F, m, n, k int) {
	i := 0
	for ; i+4 <= m; i += 4 {
		a := a[i*k : (i+4)*k]
		j := 0
		for ; j+2 <= n; j += 2 {
			tile4x2(c[i*n+j:], a, b[j*k:(j+2)*k], n, k)
		}
		for ; j < n; j++ {
			for r := range 4 {
				c[(i+r)*n+j] = dot(c[(i+r)*n+j], a[r*k:(r+1)*k], b[j*k:(j+1)*k])
			}
		}
	}
	for ; i < m; i++ {
		for j := range n {
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

// tile4x2 runs the chains of four rows of A and two of B side by side: eight independent sums keep the
// processor's adders busy where one would wait for itself, and every value loaded is used at least twice.
func tile4x2[F core.Float](c, a, b []F, n, k int) {
	a0, a1, a2, a3 := a[:k], a[k:][:k], a[2*k:][:k], a[3*k:][:k]
	b0, b1 := b[:k], b[k:][:k]
	s00, s01 := c[0], c[1]
	s10, s11 := c[n], c[n+1]
	s20, s21 := c[2*n], c[2*n+1]
	s30, s31 := c[3*n], c[3*n+1]
	for l, x := range b0 {
		y := b1[l]
		w := a0[l]
		s00 += F(w * x)
		s01 += F(w * y)
		w = a1[l]
		s10 += F(w * x)
		s11 += F(w * y)
		w = a2[l]
		s20 += F(w * x)
		s21 += F(w * y)
		w = a3[l]
		s30 += F(w * x)
		s31 += F(w * y)
	}
	c[0], c[1] = s00, s01
	c[n], c[n+1] = s10, s11
	c[2*n], c[2*n+1] = s20, s21
	c[3*n], c[3*n+1] = s30, s31
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
