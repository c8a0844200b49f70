package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

type encodeCase struct {
	src         string
	bcst        bool
	second, dst int
}

// encodeCases are registers of every kind, and memory by every base, index, scale and size of displacement.
func encodeCases() (out []encodeCase) {
	for r := range 32 {
		out = append(out, encodeCase{fmt.Sprintf("Z%d", r), false, (r * 7) % 32, (r*11 + 5) % 32})
	}
	i := 0
	for _, disp := range []int{0, 4, -4, 32, 64, 508, 512, -512, -516, 8128, 8192, -8192, -8256, 100000} {
		for _, base := range generalRegisters {
			if base == "SP" || base == "R14" { // Go's assembler has a meaning of its own for SP
				continue
			}
			mem := fmt.Sprintf("%d(%s)", disp, base)
			if i%3 != 0 {
				mem += fmt.Sprintf("(%s*%d)", generalRegisters[[]int{0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15}[i%14]], 1<<(i%4))
			}
			out = append(out, encodeCase{mem, i%2 == 0, (i * 5) % 32, (i * 3) % 32})
			i++
		}
	}
	return out
}

func encodeAll(in instruction, cases []encodeCase) (out []byte) {
	for _, c := range cases {
		out = append(out, in.encode(parseOperand(c.src), c.bcst, c.second, c.dst)...)
	}
	return out
}

// compare names the first instruction that differs.
func compare(t *testing.T, in instruction, cases []encodeCase, want []byte) {
	t.Helper()
	for _, c := range cases {
		code := encodeAll(in, []encodeCase{c})
		if !bytes.HasPrefix(want, code) {
			t.Fatalf("%s is % x, should be % x", in.text(c.bcst, c.src, c.second, c.dst), code, want[:min(len(want), 12)])
		}
		want = want[len(code):]
	}
}

// TestEncodeAsGo assembles what Go's assembler knows: VPDPWSSD has the form of VDPBF16PS.
func TestEncodeAsGo(t *testing.T) {
	var src strings.Builder
	src.WriteString("TEXT ·f(SB), 4, $0-0\n")
	for _, c := range encodeCases() {
		fmt.Fprintf(&src, "\t%s\n", vpdpwssd.text(c.bcst, c.src, c.second, c.dst))
	}
	src.WriteString("\tRET\n")
	file := filepath.Join(t.TempDir(), "f.s")
	if err := os.WriteFile(file, []byte(src.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "tool", "asm", "-p", "f", "-S", "-o", file+".o", file)
	cmd.Env = append(os.Environ(), "GOARCH=amd64", "GOOS=linux")
	list, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go tool asm: %v\n%s", err, list)
	}
	compare(t, vpdpwssd, encodeCases(), dump(list))
}

var dumped = regexp.MustCompile(`(?m)^\t0x[0-9a-f]{4,} ((?:[0-9a-f]{2} )+)`)

// dump collects the bytes of the assembler's listing.
func dump(list []byte) (out []byte) {
	for _, m := range dumped.FindAllSubmatch(list, -1) {
		b, err := hex.DecodeString(strings.ReplaceAll(string(m[1]), " ", ""))
		if err != nil {
			panic(err)
		}
		out = append(out, b...)
	}
	return out
}

// TestEncodeAsGNU assembles the instructions of AVX512_BF16 themselves.
func TestEncodeAsGNU(t *testing.T) {
	for _, tool := range []string{"as", "objcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s to compare with", tool)
		}
	}
	for _, in := range []instruction{vdpbf16ps, vcvtneps2bf16, vcvtne2ps2bf16, vpdpwssd} {
		var src strings.Builder
		for _, c := range encodeCases() {
			src.WriteString(gnu(in, c) + "\n")
		}
		file := filepath.Join(t.TempDir(), "f.s")
		if err := os.WriteFile(file, []byte(src.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"as", "--64", "-o", file + ".o", file}, {"objcopy", "-O", "binary", "-j", ".text", file + ".o", file + ".bin"}} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Skipf("%v: %v\n%s", args, err, out) // an assembler of old
			}
		}
		want, err := os.ReadFile(file + ".bin")
		if err != nil {
			t.Fatal(err)
		}
		compare(t, in, encodeCases(), want)
	}
}

// gnu writes an instruction for the GNU assembler.
func gnu(in instruction, c encodeCase) string {
	o, src := parseOperand(c.src), ""
	if o.reg >= 0 {
		src = fmt.Sprintf("%%zmm%d", o.reg)
	} else {
		src = fmt.Sprintf("%d(%s", o.disp, gnuRegister(o.base))
		if o.index >= 0 {
			src += fmt.Sprintf(",%s,%d", gnuRegister(o.index), o.scale)
		}
		src += ")"
		if c.bcst {
			src += "{1to16}"
		}
	}
	name := strings.ToLower(in.name)
	if !in.three {
		if o.reg < 0 && !c.bcst {
			name += "z" // memory does not tell the size
		}
		return fmt.Sprintf("%s %s, %%ymm%d", name, src, c.dst)
	}
	return fmt.Sprintf("%s %s, %%zmm%d, %%zmm%d", name, src, c.second, c.dst)
}

func gnuRegister(i int) string {
	name := strings.ToLower(generalRegisters[i])
	if i < 8 {
		name = "r" + name
	}
	return "%" + name
}
