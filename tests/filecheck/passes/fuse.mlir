// RUN: kaoken-opt %s -p fuse | filecheck %s

// Query, key and value become one linear; the layer without bias gets zeros.
func.func @siblings(%x: tensor<?x?x8xf32> {kaoken.shape = #kaoken.shape<[b, s, 8]>}) -> tensor<?x?x8xf32> {
  %wq = kaoken.weight "attn.q.weight" : tensor<8x8xf32>
  %bq = kaoken.weight "attn.q.bias" : tensor<8xf32>
  %q = kaoken.linear %x, %wq bias %bq : tensor<8xf32> : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
  %wk = kaoken.weight "attn.k.weight" : tensor<4x8xf32>
  %k = kaoken.linear %x, %wk : tensor<?x?x8xf32>, tensor<4x8xf32> -> tensor<?x?x4xf32>
  %wv = kaoken.weight "attn.v.weight" : tensor<4x8xf32>
  %bv = kaoken.weight "attn.v.bias" : tensor<4xf32>
  %v = kaoken.linear %x, %wv bias %bv : tensor<4xf32> : tensor<?x?x8xf32>, tensor<4x8xf32> -> tensor<?x?x4xf32>
  %y = kaoken.attention %q, %k, %v {num_heads = 4, num_kv_heads = 2, scale = 0.5 : f64} : tensor<?x?x8xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32> -> tensor<?x?x8xf32>
  return %y : tensor<?x?x8xf32>
}
// CHECK-LABEL: func.func @siblings
// CHECK-DAG:     [[WQ:%.*]] = kaoken.weight "attn.q.weight"
// CHECK-DAG:     [[BQ:%.*]] = kaoken.weight "attn.q.bias"
// CHECK-DAG:     [[WK:%.*]] = kaoken.weight "attn.k.weight"
// CHECK-DAG:     [[WV:%.*]] = kaoken.weight "attn.v.weight"
// CHECK-DAG:     [[BV:%.*]] = kaoken.weight "attn.v.bias"
// CHECK:         [[W:%.*]] = kaoken.concat [[WQ]], [[WK]], [[WV]] {dim = 0 : i64}
// CHECK-NEXT:    [[Z:%.*]] = kaoken.full 0.000000e+00 : f32 to <[4]>
// CHECK-NEXT:    [[B:%.*]] = kaoken.concat [[BQ]], [[Z]], [[BV]] {dim = 0 : i64}
// CHECK-NEXT:    [[QKV:%.*]] = kaoken.linear %x, [[W]] bias [[B]] : tensor<16xf32> : tensor<?x?x8xf32>, tensor<16x8xf32> -> tensor<?x?x16xf32>
// CHECK-NEXT:    [[Q:%.*]] = kaoken.slice [[QKV]] <[0, 8]> {dim = 2 : i64}
// CHECK-NEXT:    [[K:%.*]] = kaoken.slice [[QKV]] <[8, 12]> {dim = 2 : i64}
// CHECK-NEXT:    [[V:%.*]] = kaoken.slice [[QKV]] <[12, 16]> {dim = 2 : i64}
// CHECK-NEXT:    kaoken.attention [[Q]], [[K]], [[V]]

// Activation, residual and norm of a post-norm feed-forward block.
func.func @epilogues(%x: tensor<?x6xf32> {kaoken.shape = #kaoken.shape<[n, 6]>}) -> tensor<?x6xf32> {
  %w1 = kaoken.weight "up.weight" : tensor<9x6xf32>
  %h = kaoken.linear %x, %w1 : tensor<?x6xf32>, tensor<9x6xf32> -> tensor<?x9xf32>
  %g = kaoken.gelu %h {approximate = #kaoken.approximation tanh} : tensor<?x9xf32> -> tensor<?x9xf32>
  %w2 = kaoken.weight "down.weight" : tensor<6x9xf32>
  %d = kaoken.linear %g, %w2 : tensor<?x9xf32>, tensor<6x9xf32> -> tensor<?x6xf32>
  %late = kaoken.tanh %x : tensor<?x6xf32> -> tensor<?x6xf32>
  %r = kaoken.elementwise add %d, %late : tensor<?x6xf32>, tensor<?x6xf32> -> tensor<?x6xf32>
  %n = kaoken.weight "norm.weight" : tensor<6xf32>
  %m = kaoken.weight "norm.bias" : tensor<6xf32>
  %y = kaoken.layer_norm %r, %n bias %m : tensor<6xf32> {eps = 1.0e-5 : f64} : tensor<?x6xf32>, tensor<6xf32> -> tensor<?x6xf32>
  return %y : tensor<?x6xf32>
}
// CHECK-LABEL: func.func @epilogues
// CHECK:         [[G:%.*]] = kaoken.linear %x, %w1 {activation = #kaoken<activation gelu_tanh>}
// CHECK:         [[L:%.*]] = kaoken.tanh %x
// CHECK:         kaoken.linear [[G]], %w2 residual [[L]] : tensor<?x6xf32> norm_weight %n : tensor<6xf32> norm_bias %m : tensor<6xf32> {norm = #kaoken<norm layer_norm>, eps = 1.000000e-05 : f64} : tensor<?x9xf32>, tensor<6x9xf32> -> tensor<?x6xf32>
// CHECK-NEXT:    return

// A linear that is read twice keeps its activation apart; a sum of another shape is no residual.
func.func @kept(%x: tensor<?x6xf32> {kaoken.shape = #kaoken.shape<[n, 6]>}, %c: tensor<1x6xf32>) -> (tensor<?x6xf32>, tensor<?x6xf32>, tensor<?x6xf32>) {
  %w = kaoken.weight "w" : tensor<6x6xf32>
  %h = kaoken.linear %x, %w : tensor<?x6xf32>, tensor<6x6xf32> -> tensor<?x6xf32>
  %g = kaoken.relu %h : tensor<?x6xf32> -> tensor<?x6xf32>
  %k = kaoken.linear %g, %w : tensor<?x6xf32>, tensor<6x6xf32> -> tensor<?x6xf32>
  %s = kaoken.elementwise add %k, %c : tensor<?x6xf32>, tensor<1x6xf32> -> tensor<?x6xf32>
  return %h, %g, %s : tensor<?x6xf32>, tensor<?x6xf32>, tensor<?x6xf32>
}
// CHECK-LABEL: func.func @kept
// CHECK:         kaoken.linear %x, %w : tensor<?x6xf32>
// CHECK-NEXT:    kaoken.relu
// CHECK-NEXT:    kaoken.linear
// CHECK-NEXT:    kaoken.elementwise add

// Gated feed-forward: the gate takes its activation, so the two layers stay apart.
// Of two layers that are added the later one takes the sum.
func.func @gated(%x: tensor<?x6xf32> {kaoken.shape = #kaoken.shape<[n, 6]>}) -> tensor<?x6xf32> {
  %w = kaoken.weight "gate.weight" : tensor<9x6xf32>
  %v = kaoken.weight "up.weight" : tensor<9x6xf32>
  %u = kaoken.weight "down.weight" : tensor<6x9xf32>
  %a = kaoken.linear %x, %w : tensor<?x6xf32>, tensor<9x6xf32> -> tensor<?x9xf32>
  %b = kaoken.silu %a : tensor<?x9xf32> -> tensor<?x9xf32>
  %c = kaoken.linear %x, %v : tensor<?x6xf32>, tensor<9x6xf32> -> tensor<?x9xf32>
  %d = kaoken.elementwise mul %b, %c : tensor<?x9xf32>, tensor<?x9xf32> -> tensor<?x9xf32>
  %e = kaoken.linear %d, %u : tensor<?x9xf32>, tensor<6x9xf32> -> tensor<?x6xf32>
  %f = kaoken.linear %b, %u : tensor<?x9xf32>, tensor<6x9xf32> -> tensor<?x6xf32>
  %g = kaoken.elementwise add %f, %e : tensor<?x6xf32>, tensor<?x6xf32> -> tensor<?x6xf32>
  %n = kaoken.weight "norm.weight" : tensor<6xf32>
  %y = kaoken.rms_norm %g, %n {eps = 1.0e-6 : f64} : tensor<?x6xf32>, tensor<6xf32> -> tensor<?x6xf32>
  return %y : tensor<?x6xf32>
}
// CHECK-LABEL: func.func @gated
// CHECK:         [[B:%.*]] = kaoken.linear %x, %w {activation = #kaoken<activation silu>}
// CHECK-NEXT:    [[C:%.*]] = kaoken.linear %x, %v :
// CHECK-NEXT:    [[D:%.*]] = kaoken.elementwise mul [[B]], [[C]]
// CHECK-NEXT:    [[E:%.*]] = kaoken.linear [[D]], %u :
// CHECK:         kaoken.linear [[B]], %u residual [[E]] : tensor<?x6xf32> norm_weight %n : tensor<6xf32> {norm = #kaoken<norm rms_norm>, eps
