package cpu

import "unsafe"

// The gradient of the weights by the same tiles: at each of the 16 places, the values of the input times the gradients of the tiles' sums,
// added up over tiles and images, are the gradient of the filter's value there. A group's sums stay in the thread's room until all its
// images are in.

// winogradPiece is what the gradient of the weights takes at a time: a strip of one image, or several whole images that have few tiles.
type winogradPiece struct {
	*winogradStrip
	images          span
	values, errors  unsafe.Pointer // of the input, of the gradients
	xPlane, dyPlane int
	block           int // tiles from one block of channels to the next
}

// together is how many images of one strip a piece takes, and how many tiles it has at most.
func (p *winogradPlan) together() (images, tiles int) {
	for i := range p.strips {
		tiles = max(tiles, p.strips[i].tiles(p))
	}
	if len(p.strips) > 1 {
		return 1, tiles
	}
	images = max(1, winogradTiles/tiles)
	return images, images * tiles
}

// sumsOfPair are one for each value of a tile.
func (a winograd) sumsOfPair(*convUnit) int { return winogradValues }

func (a winograd) settleSums(u *convUnit) (taps []tapRun, room int) {
	_, tiles := u.fwd.winograd.together()
	for _, t := range u.weights.tiles {
		room = max(room, winogradValues*(4*blockLen*t.in.n*t.out.n+winogradPlane(tiles, t.in.n)+winogradPlane(tiles, t.out.n)))
	}
	return nil, room
}

func (a winograd) sumTile(e *Engine, u *convUnit, t channelTile, group, thread int) {
	s, w, p := &e.scratch[thread], &u.weights, u.fwd.winograd
	images, tiles := p.together()
	piece := winogradPiece{xPlane: winogradPlane(tiles, t.in.n), dyPlane: winogradPlane(tiles, t.out.n), block: tiles}
	s.used = 0
	sums := s.take(winogradValues * 4 * blockLen * t.in.n * t.out.n)
	piece.values, piece.errors = s.take(winogradValues*piece.xPlane), s.take(winogradValues*piece.dyPlane)
	g, add := w.groups[group], 0
	for from := 0; from < g.n; from += images {
		piece.images = span{g.from + from, min(images, g.n-from)}
		for i := range p.strips {
			piece.winogradStrip = &p.strips[i]
			a.fill(e, u, &piece, t, thread)
			a.sumPiece(s, p, &piece, t, sums, add)
			add = 1
		}
	}
	for i := range t.in.n {
		for o := range t.out.n {
			s.winograd = winogradArgs{in: unsafe.Add(sums, (i*t.out.n+o)*winogradValues*4*blockLen), out: w.sums(u, group, t.in.from+i, t.out.from+o), n: lanes, half: 0.5}
			a.k.winogradWeights(&s.winograd)
		}
	}
}

// fill transforms a piece's pixels and their gradients.
func (a winograd) fill(e *Engine, u *convUnit, c *winogradPiece, t channelTile, thread int) {
	s, x, p := &e.scratch[thread], u.weights.x, u.fwd.winograd
	for i := range c.images.n {
		image, first := c.images.from+i, i*c.tiles(p)
		for b := range t.in.n {
			a.toValues(s, &u.fwd, c.winogradStrip, x.start(e.slot(x, image, thread), 0), t.in.from+b, unsafe.Add(c.values, (b*c.block+first)*pixelBytes), c.xPlane)
		}
		for b := range t.out.n {
			for r := range c.n {
				s.winograd = winogradArgs{in: unsafe.Add(u.dy.at(image, t.out.from+b), 2*(c.from+r)*u.dy.row), inRow: u.dy.row,
					out: unsafe.Add(c.errors, (b*c.block+first+r*p.across)*pixelBytes), plane: c.dyPlane, n: p.across}
				a.k.winogradError(&s.winograd)
			}
		}
	}
}

// sumPiece adds what a piece contributes at every place.
func (a winograd) sumPiece(s *scratch, p *winogradPlan, c *winogradPiece, t channelTile, sums unsafe.Pointer, add int) {
	s.wgrad = wgradArgs{images: 1, rows: 1, cols: c.images.n * c.tiles(p), dyBlock: c.block * pixelBytes, dwBlock: winogradValues * 4 * blockLen, add: add}
	for i := range t.in.n {
		for o := 0; o < t.out.n; o += 2 {
			pair := unsafe.Add(sums, (i*t.out.n+o)*winogradValues*4*blockLen)
			for v := range winogradValues {
				s.wgrad.x = unsafe.Add(c.values, v*c.xPlane+i*c.block*pixelBytes)
				s.wgrad.dy = unsafe.Add(c.errors, v*c.dyPlane+o*c.block*pixelBytes)
				s.wgrad.dw = unsafe.Add(pair, v*4*blockLen)
				if o+1 < t.out.n {
					a.k.wgradPair(&s.wgrad)
				} else {
					a.k.wgrad(&s.wgrad)
				}
			}
		}
	}
}
