package cpu

import "unsafe"

func transposeGeneric(a *transposeArgs) {
	rows, cols := unsafe.Slice((*int)(a.rowAt), a.rows), unsafe.Slice((*int)(a.colAt), a.cols)
	for r, from := range rows {
		row := unsafe.Slice((*float32)(unsafe.Add(a.in, from)), len(cols))
		for c, to := range cols {
			*(*float32)(unsafe.Add(a.out, to+4*r)) = row[c]
		}
	}
}

func imageGeneric(a *imageArgs) {
	for r := range a.rows {
		for c := range a.cols {
			var pixel vector
			for l := range a.channels {
				pixel[l] = *(*float32)(unsafe.Add(a.in, l*a.plane+4*(r*a.cols+c)))
			}
			*vec(a.out, r*a.outRow+c*pixelBytes) = pixel
		}
	}
}

func pixelsGeneric(a *pixelArgs, add bool) {
	for r := range a.rows {
		for c := range a.cols {
			in := unsafe.Slice((*float32)(unsafe.Add(a.in, r*a.inRow+c*a.inPix)), a.lanes)
			out := unsafe.Slice((*float32)(unsafe.Add(a.out, r*a.outRow+c*a.outPix)), a.lanes)
			for l, v := range in {
				if add {
					v += out[l]
				}
				out[l] = v
			}
		}
	}
}

func maxPoolGeneric(a *poolArgs) {
	for i := range a.n {
		in := unsafe.Add(a.in, i*a.step)
		top := *vec(in, 0)
		for r := range a.rows {
			for c := range a.cols {
				for l, v := range vec(in, r*a.inRow+c*pixelBytes) {
					if v > top[l] || v != v {
						top[l] = v
					}
				}
			}
		}
		*vec(a.out, i*pixelBytes) = top
	}
}

func maxPoolGradientGeneric(a *poolArgs) {
	for i := range a.n {
		top, g := vec(a.out, i*pixelBytes), *vec(a.dOut, i*pixelBytes)
		for r := range a.rows {
			for c := range a.cols {
				d := vec(a.dIn, i*a.step+r*a.dInRow+c*pixelBytes)
				for l, v := range vec(a.in, i*a.step+r*a.inRow+c*pixelBytes) {
					if v == top[l] {
						d[l] += g[l]
						g[l] = 0 // given away
					}
				}
			}
		}
	}
}
