module github.com/lockstep-ml/lockstep/shard/jpeg/_gen

go 1.26.0
