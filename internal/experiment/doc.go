// Package experiment knows the experiments of "Deep Residual Learning for Image Recognition" (He et al. 2015): which networks each trains
// and for how long, what the paper found, and how what was found here becomes tables, curves and a report. It trains nothing itself.
//
//	plan, err := experiment.Options{Kind: experiment.Depth, Depths: []int{20, 56}, Budget: 0.1}.Plan()
//	for _, n := range plan.Networks {
//		// train with plan.Flags(n) into a folder of its own, and add what came of it
//		findings = append(findings, found)
//	}
//	err = plan.Write(fsys, dir, findings)
package experiment
