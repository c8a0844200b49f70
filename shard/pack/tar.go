package pack

import "fmt"

// endMark is the two empty blocks that end a tar.
const endMark = 2 * blockBytes

// appendHeader adds the ustar header (POSIX.1-1988) of a regular file that anyone may read, of nobody and of no time: a shard's bytes
// depend on its samples alone. name is at most 100 bytes, size below 8 GiB.
func appendHeader(b []byte, name string, size int64) []byte {
	start := len(b)
	b = append(b, make([]byte, blockBytes)...)
	h := b[start:]
	copy(h[0:100], name)
	copy(h[100:108], "0000644\x00")
	copy(h[108:116], "0000000\x00")
	copy(h[116:124], "0000000\x00")
	copy(h[124:136], fmt.Sprintf("%011o\x00", size))
	copy(h[136:148], "00000000000\x00")
	copy(h[148:156], "        ") // counted as blanks
	h[156] = '0'
	copy(h[257:265], "ustar\x0000")
	copy(h[329:337], "0000000\x00")
	copy(h[337:345], "0000000\x00")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// key is what a sample's members are called, up to the dot. Nine digits sort as the numbers do; what does not fit has more.
func key(ordinal int) string { return fmt.Sprintf("%09d", ordinal) }

// before gives what lies in the shard between the sample before and the image: the image's header.
func before(e *Entry) []byte { return appendHeader(nil, key(e.Ordinal)+"."+e.Kind.extension(), e.Size) }

// after gives what follows the image: the rest of its last block, and the member with the label.
func after(e *Entry) []byte {
	b := make([]byte, blocks(e.Size)-e.Size, blockBytes*3)
	label := fmt.Sprint(e.Label)
	b = appendHeader(b, key(e.Ordinal)+".cls", int64(len(label)))
	b = append(b, label...)
	return append(b, make([]byte, blockBytes-len(label))...)
}

// SampleBytes is what a sample of so many bytes takes in a shard.
func SampleBytes(size int64) int64 { return blockBytes + blocks(size) + 2*blockBytes }
