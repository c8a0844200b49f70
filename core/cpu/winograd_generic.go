package cpu

import "unsafe"

func winogradInputGeneric(a *winogradArgs) {
	for t := range a.n {
		in, out := unsafe.Add(a.in, 2*t*pixelBytes), unsafe.Add(a.out, t*pixelBytes)
		for l := range lanes {
			at := func(row, col int) float32 { return vec(in, row*a.inRow+col*pixelBytes)[l] }
			var down [4][4]float32 // by column
			for c := range down {
				down[c] = inputLine(at(0, c), at(1, c), at(2, c), at(3, c))
			}
			for i := range 4 {
				for j, v := range inputLine(down[0][i], down[1][i], down[2][i], down[3][i]) {
					vec(out, (4*i+j)*a.plane)[l] = v
				}
			}
		}
	}
}

// inputLine is B'd for a line of four pixels.
func inputLine(a, b, c, d float32) [4]float32 { return [4]float32{a - c, b + c, c - b, b - d} }

func winogradOutputGeneric(a *winogradArgs) {
	for t := range a.n {
		in, out := unsafe.Add(a.in, t*pixelBytes), unsafe.Add(a.out, 2*t*pixelBytes)
		for l := range lanes {
			at := func(row, col int) float32 { return vec(in, (4*row+col)*a.plane)[l] }
			var down [4][2]float32 // by column
			for c := range down {
				down[c] = outputLine(at(0, c), at(1, c), at(2, c), at(3, c))
			}
			for y := range 2 {
				for x, v := range outputLine(down[0][y], down[1][y], down[2][y], down[3][y]) {
					to := &vec(out, y*a.outRow+x*pixelBytes)[l]
					if a.add != 0 {
						v += *to
					}
					*to = v
				}
			}
		}
	}
}

// outputLine is A'm for a line of four sums.
func outputLine(a, b, c, d float32) [2]float32 { return [2]float32{a + (b + c), (b - c) - d} }

func winogradFilterGeneric(a *winogradArgs) {
	for row := range a.n {
		in, out := unsafe.Add(a.in, row*pixelBytes), unsafe.Add(a.out, row*pixelBytes)
		for l := range lanes {
			at := func(row, col int) float32 { return vec(in, 4*(3*row+col)*blockLen)[l] }
			var down [3][4]float32 // by column
			for c := range down {
				down[c] = filterLine(at(0, c), at(1, c), at(2, c), a.half)
			}
			for i := range 4 {
				for j, v := range filterLine(down[0][i], down[1][i], down[2][i], a.half) {
					vec(out, (4*i+j)*a.plane)[l] = v
				}
			}
		}
	}
}

// filterLine is Gg for a line of three weights.
func filterLine(a, b, c, half float32) [4]float32 {
	outer := a + c
	return [4]float32{a, float32((outer + b) * half), float32((outer - b) * half), c}
}

func winogradErrorGeneric(a *winogradArgs) {
	for t := range a.n {
		in, out := unsafe.Add(a.in, 2*t*pixelBytes), unsafe.Add(a.out, t*pixelBytes)
		for l := range lanes {
			at := func(row, col int) float32 { return vec(in, row*a.inRow+col*pixelBytes)[l] }
			left, right := errorLine(at(0, 0), at(1, 0)), errorLine(at(0, 1), at(1, 1))
			for i := range 4 {
				for j, v := range errorLine(left[i], right[i]) {
					vec(out, (4*i+j)*a.plane)[l] = v
				}
			}
		}
	}
}

// errorLine is Ae for a line of two gradients, but for the last sign.
func errorLine(a, b float32) [4]float32 { return [4]float32{a, a + b, a - b, b} }

func winogradWeightsGeneric(a *winogradArgs) {
	for row := range a.n {
		in, out := unsafe.Add(a.in, row*pixelBytes), unsafe.Add(a.out, row*pixelBytes)
		for l := range lanes {
			at := func(row, col int) float32 { return vec(in, 4*(4*row+col)*blockLen)[l] }
			var down [4][3]float32 // by column
			for c := range down {
				down[c] = weightLine(at(0, c), at(1, c), at(2, c), at(3, c), a.half)
			}
			for i := range 3 {
				for j, v := range weightLine(down[0][i], down[1][i], down[2][i], down[3][i], a.half) {
					vec(out, 4*(3*i+j)*blockLen)[l] = v
				}
			}
		}
	}
}

// weightLine is G'u for a line of four gradients, of which errorLine left the last one's sign.
func weightLine(a, b, c, d, half float32) [3]float32 {
	sum, difference := float32((b+c)*half), float32((b-c)*half)
	return [3]float32{a + sum, difference, sum - d}
}
