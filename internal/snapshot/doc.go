// Package snapshot holds the whole training state as plain float slices, names it by a hash, and cuts it into checked chunks so
// that one process can copy it from another over any stream.
//
// The caller keeps the slices still while a Hash or a Reader is using them: both look at the memory itself, they make no copy.
// A Builder is the receiving side. It believes nothing it has not checked: lengths are bounded before memory is taken, each chunk
// carries a CRC-32C, chunks must follow one another without gap or overlap, and at the end the SHA-256 of the header must come out.
//
//	r := snapshot.NewReader(state)
//	send(r.Header())
//	for {
//		chunk, err := r.Next(snapshot.ChunkBytes)
//		if err == io.EOF {
//			break
//		}
//		send(chunk)
//	}
//
//	b, err := snapshot.NewBuilder(header, limitBytes)
//	for chunk := range received {
//		err = b.Add(chunk)
//	}
//	state, err := b.Finish()
package snapshot
