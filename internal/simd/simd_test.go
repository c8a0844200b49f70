package simd

import (
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		want    string
		offered []Family
		got     Family
		wrong   string
	}{
		{"", []Family{Generic}, Generic, ""},
		{"", []Family{Generic, AVX2, AVX512}, AVX512, ""},
		{"generic", []Family{Generic, AVX2}, Generic, ""},
		{"avx2", []Family{Generic, AVX2, AVX512}, AVX2, ""},
		{"avx512fma", []Family{Generic, AVX2, AVX512}, AVX512, ""},
		{"avx512", []Family{Generic, AVX2}, Generic, "LOCKSTEP_SIMD=avx512: this machine offers generic avx2"},
		{"mmx", []Family{Generic}, Generic, "LOCKSTEP_SIMD=mmx: this machine offers generic"},
	} {
		got, err := choose(c.want, c.offered)
		if got != c.got || (err != nil) != (c.wrong != "") || (err != nil && err.Error() != c.wrong) {
			t.Errorf("choose(%q, %v) is %v, %v", c.want, c.offered, got, err)
		}
	}
}

func TestChooseReadsTheEnvironment(t *testing.T) {
	for _, f := range Offered() {
		t.Setenv(Variable, f.String())
		if got, err := Choose(); got != f || err != nil {
			t.Errorf("%s=%v gives %v, %v", Variable, f, got, err)
		}
	}
	t.Setenv(Variable, "mmx")
	if _, err := Choose(); err == nil || !strings.Contains(err.Error(), Variable) {
		t.Errorf("error is %v", err)
	}
}
