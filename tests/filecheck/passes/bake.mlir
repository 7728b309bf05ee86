// RUN: kaoken-opt %s -p "bake{target=x86-64-v3}" | filecheck %s
// RUN: kaoken-opt %s -p "bake{target=x86-64-v3},bake" | filecheck %s
// RUN: not kaoken-opt %s -p "bake{mode=fast}" 2>&1 | filecheck %s --check-prefix=MODE

// MODE: error: bake has no mode 'fast': choose one of pack, literal

// Weights are joined, the scale goes into the rows of the query, and all is packed.
func.func @attention(%x: tensor<?x?x2xf32> {kaoken.shape = #kaoken.shape<[b, s, 2]>}) -> tensor<?x?x2xf32> {
  %wq = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %wk = arith.constant dense<[[5.0, 6.0], [7.0, 8.0]]> : tensor<2x2xf32>
  %bq = arith.constant dense<[3.0, 2.0]> : tensor<2xf32>
  %bk = kaoken.full 0.0 : f32 to <[2]> : tensor<2xf32>
  %w = kaoken.concat %wq, %wk {dim = 0} : tensor<2x2xf32>, tensor<2x2xf32> -> tensor<4x2xf32>
  %c = kaoken.concat %bq, %bk {dim = 0} : tensor<2xf32>, tensor<2xf32> -> tensor<4xf32>
  %qk = kaoken.linear %x, %w bias %c : tensor<4xf32> : tensor<?x?x2xf32>, tensor<4x2xf32> -> tensor<?x?x4xf32>
  %q = kaoken.slice %qk <[0, 2]> {dim = 2} : tensor<?x?x4xf32> -> tensor<?x?x2xf32>
  %k = kaoken.slice %qk <[2, 4]> {dim = 2} : tensor<?x?x4xf32> -> tensor<?x?x2xf32>
  %y = kaoken.attention %q, %k, %x {num_heads = 1, scale = 0.5 : f64} : tensor<?x?x2xf32>, tensor<?x?x2xf32>, tensor<?x?x2xf32> -> tensor<?x?x2xf32>
  return %y : tensor<?x?x2xf32>
}
// CHECK-LABEL: func.func @attention
// CHECK:         [[B:%.*]] = kaoken.weight "bq.scaled" : tensor<4xf32>
// CHECK:         [[W:%.*]] = kaoken.weight "wq_wk.scaled.panels{{[0-9]+}}" : tensor<1x2x{{[0-9]+}}xf32>
// CHECK-NEXT:    kaoken.linear %x, [[W]] bias [[B]] : tensor<4xf32> {schedule = #kaoken.schedule<panel({{[0-9]+}}), {{.*}}>, out_features = 4 : i64}
// CHECK:         kaoken.attention {{.*}} scale = 1.000000e+00 : f64

// A schedule that is there already says how wide the panels are; a shared weight is packed once.
func.func @panels(%x: tensor<?x2xf32> {kaoken.shape = #kaoken.shape<[n, 2]>}) -> tensor<?x3xf32> {
  %u = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %t = kaoken.transpose %u [1, 0] : tensor<2x2xf32> -> tensor<2x2xf32>
  %y = kaoken.linear %x, %t {schedule = #kaoken.schedule<panel(4)>} : tensor<?x2xf32>, tensor<2x2xf32> -> tensor<?x2xf32>
  %z = kaoken.linear %y, %t {schedule = #kaoken.schedule<panel(4)>} : tensor<?x2xf32>, tensor<2x2xf32> -> tensor<?x2xf32>
  %v = arith.constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>
  %half = arith.constant dense<0.5> : tensor<f32>
  %a = kaoken.linear %z, %v {schedule = #kaoken.schedule<panel(2)>} : tensor<?x2xf32>, tensor<3x2xf32> -> tensor<?x3xf32>
  %b = kaoken.elementwise mul %a, %half : tensor<?x3xf32>, tensor<f32> -> tensor<?x3xf32>
  return %b : tensor<?x3xf32>
}
// CHECK-LABEL: func.func @panels
// CHECK:         [[T:%.*]] = kaoken.weight "u.transposed.panels4" : tensor<1x2x4xf32>
// CHECK-NEXT:    [[Y:%.*]] = kaoken.linear %x, [[T]] {{.*}}out_features = 2
// CHECK-NEXT:    [[Z:%.*]] = kaoken.linear [[Y]], [[T]]
// CHECK-NEXT:    [[V:%.*]] = kaoken.weight "v.scaled.panels2" : tensor<2x2x2xf32>
// CHECK-NEXT:    [[A:%.*]] = kaoken.linear [[Z]], [[V]] {{.*}}out_features = 3
// CHECK-NEXT:    return [[A]]

// Known positions: the rows are looked up now, what stays is which of them a call needs.
func.func @positions(%x: tensor<?x?x2xf32> {kaoken.shape = #kaoken.shape<[b, s, 2]>}) -> tensor<?x?x2xf32> attributes {kaoken.max = {b = 8, s = 3}} {
  %table = arith.constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>
  %ids = arith.constant dense<[[2, 1, 0]]> : tensor<1x3xi64>
  %now = kaoken.slice %ids <[0, s]> {dim = 1} : tensor<1x3xi64> -> tensor<1x?xi64>
  %all = kaoken.broadcast %now to <[b, s]> : tensor<1x?xi64> -> tensor<?x?xi64>
  %p = kaoken.embedding %table, %all : tensor<3x2xf32>, tensor<?x?xi64> -> tensor<?x?x2xf32>
  %y = kaoken.elementwise add %x, %p : tensor<?x?x2xf32>, tensor<?x?x2xf32> -> tensor<?x?x2xf32>
  %iota = kaoken.iota <[s]> : tensor<?xi64>
  %q = kaoken.embedding %table, %iota : tensor<3x2xf32>, tensor<?xi64> -> tensor<?x2xf32>
  %z = kaoken.elementwise add %y, %q : tensor<?x?x2xf32>, tensor<?x2xf32> -> tensor<?x?x2xf32>
  return %z : tensor<?x?x2xf32>
}
// CHECK-LABEL: func.func @positions
// CHECK-NEXT:    [[T:%.*]] = kaoken.weight "table" : tensor<3x2xf32>
// CHECK-NEXT:    [[R:%.*]] = kaoken.weight "table_ids.rows" : tensor<1x3x2xf32>
// CHECK-NEXT:         [[P:%.*]] = kaoken.slice [[R]] <[0, s]>
// CHECK-NEXT:    [[Y:%.*]] = kaoken.elementwise add %x, [[P]]
// CHECK-NEXT:    [[Q:%.*]] = kaoken.slice [[T]] <[0, s]>
// CHECK-NEXT:    kaoken.elementwise add [[Y]], [[Q]]
