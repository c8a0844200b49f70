package experiment

import "fmt"

// Figures are what the paper prints of a network: errors in per cent; 0 stands for none.
type Figures struct {
	Top1  float64 `json:"top1_error,omitempty"`
	Top5  float64 `json:"top5_error,omitempty"`
	Where string  `json:"where,omitempty"` // table or section
	Note  string  `json:"note,omitempty"`
}

// String gives the figures for a table's cell.
func (f *Figures) String() string {
	if f == nil {
		return "-"
	}
	s := ""
	if f.Top1 > 0 {
		s = fmt.Sprintf("%.2f", f.Top1)
	}
	if f.Top5 > 0 {
		s += fmt.Sprintf(" / %.2f", f.Top5)
	}
	if f.Note != "" {
		if s != "" {
			s += ", "
		}
		s += f.Note
	}
	return s + " (" + f.Where + ")"
}

// table2 is top-1 error on ImageNet's validation images with ten crops, shortcuts of option A.
var table2 = map[string]Figures{
	"plain18": {Top1: 27.94}, "plain34": {Top1: 28.54}, "resnet18-A": {Top1: 27.88}, "resnet34-A": {Top1: 25.03},
}

// table3 is top-1 and top-5 error, likewise; networks of 50 layers and more have option B.
var table3 = map[string]Figures{
	"plain34": {Top1: 28.54, Top5: 10.02}, "resnet34-A": {Top1: 25.03, Top5: 7.76}, "resnet34-B": {Top1: 24.52, Top5: 7.46}, "resnet34-C": {Top1: 24.19, Top5: 7.40},
	"resnet34": {Top1: 24.52, Top5: 7.46}, "resnet50": {Top1: 22.85, Top5: 6.71}, "resnet101": {Top1: 21.75, Top5: 6.05}, "resnet152": {Top1: 21.43, Top5: 5.71},
}

// table6 is the error on CIFAR-10's test images.
var table6 = map[string]Figures{
	"cifar-resnet20": {Top1: 8.75}, "cifar-resnet32": {Top1: 7.51}, "cifar-resnet44": {Top1: 7.17}, "cifar-resnet56": {Top1: 6.97},
	"cifar-resnet110": {Top1: 6.43, Note: "the best of five; their mean is 6.61 with a deviation of 0.16"}, "cifar-resnet1202": {Top1: 7.93},
}

// section42 is what the text says of plain networks, of which no table has figures.
var section42 = map[string]Figures{"cifar-plain110": {Note: "above 60, and not shown"}}

// paper looks a network's figures up in the tables that an experiment is compared with.
func paper(kind Kind, arch string) *Figures {
	type source struct {
		where string
		table map[string]Figures
	}
	sources := []source{{"Table 6", table6}, {"section 4.2", section42}}
	if kind == Degradation {
		sources = append(sources, source{"Table 2", table2})
	} else {
		sources = append(sources, source{"Table 3", table3})
	}
	for _, s := range sources {
		if f, ok := s.table[arch]; ok {
			f.Where = s.where
			return &f
		}
	}
	return nil
}
