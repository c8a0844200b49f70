package shard

import "math"

// The functions of package math below have versions in assembly on some processors, which differ in the last bit. What decides about
// pixels is computed here instead, by additions, multiplications, divisions and square roots alone, each of them rounded.

const logFourThirds = 0.28768207245178092743921900599383

// expSmall is e^x for |x| < 0.3 by its series.
func expSmall(x float64) float64 {
	sum := 1.0
	for k := 14; k >= 1; k-- {
		sum = 1 + float64(float64(x*sum)/float64(k))
	}
	return sum
}

// logUnit is the natural logarithm of x in (0, 1], by the series of 2 artanh((m-1)/(m+1)) for the significand m in 0.7..1.42.
func logUnit(x float64) float64 {
	m, exponent := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m, exponent = 2*m, exponent-1
	}
	s := (m - 1) / (m + 1)
	square := float64(s * s)
	sum := 0.0
	for k := 23; k >= 1; k -= 2 {
		sum = 1/float64(k) + float64(sum*square)
	}
	return float64(2*float64(s*sum)) + float64(float64(exponent)*math.Ln2)
}

// turn gives the sine and cosine of x turns, x in [0, 1): the series of an angle of an eighth of a turn at most, and quarter turns.
func turn(x float64) (sin, cos float64) {
	quarters := math.Floor(float64(4*x) + 0.5)
	angle := float64((x - quarters/4) * (2 * math.Pi))
	square := float64(angle * angle)
	sin, cos = 1, 1
	for k := 18; k >= 2; k -= 2 {
		sin = 1 - float64(float64(square*sin)/float64(k*(k+1)))
		cos = 1 - float64(float64(square*cos)/float64((k-1)*k))
	}
	sin = float64(sin * angle)
	switch int(quarters) & 3 {
	case 1:
		return cos, -sin
	case 2:
		return -sin, -cos
	case 3:
		return -cos, sin
	}
	return sin, cos
}

// normals draws two numbers of the standard normal distribution (Box and Muller 1958).
func (d *Draw) normals() (float64, float64) {
	u := 1 - d.Float64() // in (0, 1]
	sin, cos := turn(d.Float64())
	r := math.Sqrt(float64(-2 * logUnit(u)))
	return float64(r * cos), float64(r * sin)
}

// Eigenvalues and eigenvectors of the covariance of ImageNet's colours, of values in 0..1: the square roots of the former, as the
// figures that fb.resnet.torch trains with.
var (
	lightingValues  = [3]float64{0.2175, 0.0188, 0.0045}
	lightingVectors = [3][3]float64{ // [channel][component]
		{-0.5675, 0.7192, 0.4009},
		{-0.5808, -0.0045, -0.8140},
		{-0.5836, -0.6948, 0.4203},
	}
)

// lightingStd is the standard deviation of the multiples.
const lightingStd = 0.1

// lighting draws what is added to the channels. It takes four numbers of the stream.
func lighting(d *Draw) (shift [3]float32) {
	var alpha [4]float64
	alpha[0], alpha[1] = d.normals()
	alpha[2], alpha[3] = d.normals()
	for c := range shift {
		sum := 0.0
		for k, value := range lightingValues {
			sum += float64(float64(lightingVectors[c][k]*value) * float64(lightingStd*alpha[k]))
		}
		shift[c] = float32(sum)
	}
	return shift
}
