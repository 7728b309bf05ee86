// Every op, in pretty and in generic form, survives printing and parsing.
// RUN: kaoken-opt %s | kaoken-opt | filecheck %s
// RUN: kaoken-opt %s --print-op-generic | kaoken-opt | filecheck %s

func.func @layers(%x: tensor<?x?x8xf32>, %mask: tensor<?x?xi1>, %bias: tensor<?x1x1x?xf32>) attributes {kaoken.max = {batch = 8 : i64, tokens = 512 : i64}} {
// CHECK: func.func @layers(%x: tensor<?x?x8xf32>, %mask: tensor<?x?xi1>, %bias: tensor<?x1x1x?xf32>) attributes {kaoken.max = {batch = 8 : i64, tokens = 512 : i64}} {
  %w = kaoken.weight "a.weight" : tensor<8x8xf32>
// CHECK-NEXT: %w = kaoken.weight "a.weight" : tensor<8x8xf32>
  %p = kaoken.weight "a.weight.panels3" : tensor<3x8x3xf32>
// CHECK-NEXT: %p = kaoken.weight "a.weight.panels3" : tensor<3x8x3xf32>
  %v = kaoken.weight "a.bias" : tensor<8xf32>
// CHECK-NEXT: %v = kaoken.weight "a.bias" : tensor<8xf32>
  %l0 = kaoken.linear %x, %w : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %l0 = kaoken.linear %x, %w : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
  %l1 = kaoken.linear %x, %w bias %v : tensor<8xf32> {activation = #kaoken<activation gelu>} : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %l1 = kaoken.linear %x, %w bias %v : tensor<8xf32> {activation = #kaoken<activation gelu>} : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
  %l2 = kaoken.linear %x, %p bias %v : tensor<8xf32> residual %x : tensor<?x?x8xf32> norm_weight %v : tensor<8xf32> norm_bias %v : tensor<8xf32> {norm = #kaoken<norm layer_norm>, eps = 1.0e-12, out_features = 8, schedule = #kaoken.schedule<tile(m, 6), order(n0, m, n1), vectorize(m, n1)>} : tensor<?x?x8xf32>, tensor<3x8x3xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %l2 = kaoken.linear %x, %p bias %v : tensor<8xf32> residual %x : tensor<?x?x8xf32> norm_weight %v : tensor<8xf32> norm_bias %v : tensor<8xf32> {norm = #kaoken<norm layer_norm>, eps = 1.000000e-12 : f64, out_features = 8 : i64, schedule = #kaoken.schedule<tile(m, 6), order(n0, m, n1), vectorize(m, n1)>} : tensor<?x?x8xf32>, tensor<3x8x3xf32> -> tensor<?x?x8xf32>
  %l3 = kaoken.linear %x, %w norm_weight %v : tensor<8xf32> {norm = #kaoken<norm rms_norm>, eps = 1.0e-6} : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %l3 = kaoken.linear %x, %w norm_weight %v : tensor<8xf32> {norm = #kaoken<norm rms_norm>, eps = 1.000000e-06 : f64} : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
  %m0 = kaoken.matmul %x, %w : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %m0 = kaoken.matmul %x, %w : tensor<?x?x8xf32>, tensor<8x8xf32> -> tensor<?x?x8xf32>
  %m1 = kaoken.matmul %x, %x {transpose_rhs = true} : tensor<?x?x8xf32>, tensor<?x?x8xf32> -> tensor<?x?x?xf32>
// CHECK-NEXT: %m1 = kaoken.matmul %x, %x {transpose_rhs = true} : tensor<?x?x8xf32>, tensor<?x?x8xf32> -> tensor<?x?x?xf32>
  %a0 = kaoken.attention %x, %x, %x {num_heads = 2, scale = 0.5} : tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %a0 = kaoken.attention %x, %x, %x {num_heads = 2 : i64, scale = 5.000000e-01 : f64} : tensor<?x?x8xf32>, tensor<?x?x8xf32>, tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %k = kaoken.slice %x <[0, 4]> {dim = 2} : tensor<?x?x8xf32> -> tensor<?x?x4xf32>
// CHECK-NEXT: %k = kaoken.slice %x <[0, 4]> {dim = 2 : i64} : tensor<?x?x8xf32> -> tensor<?x?x4xf32>
  %a1 = kaoken.attention %x, %k, %k mask %bias : tensor<?x1x1x?xf32> {num_heads = 2, num_kv_heads = 1, scale = 0.17677669529663687, causal = true} : tensor<?x?x8xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %a1 = kaoken.attention %x, %k, %k mask %bias : tensor<?x1x1x?xf32> {num_heads = 2 : i64, num_kv_heads = 1 : i64, scale = 0.17677669529663687 : f64, causal = true} : tensor<?x?x8xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32> -> tensor<?x?x8xf32>
  %n0 = kaoken.layer_norm %x, %v {eps = 1.0e-5} : tensor<?x?x8xf32>, tensor<8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %n0 = kaoken.layer_norm %x, %v {eps = 1.000000e-05 : f64} : tensor<?x?x8xf32>, tensor<8xf32> -> tensor<?x?x8xf32>
  %n1 = kaoken.layer_norm %x, %v bias %v : tensor<8xf32> {eps = 1.0e-5} : tensor<?x?x8xf32>, tensor<8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %n1 = kaoken.layer_norm %x, %v bias %v : tensor<8xf32> {eps = 1.000000e-05 : f64} : tensor<?x?x8xf32>, tensor<8xf32> -> tensor<?x?x8xf32>
  %n2 = kaoken.rms_norm %x, %v {eps = 1.0e-6} : tensor<?x?x8xf32>, tensor<8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %n2 = kaoken.rms_norm %x, %v {eps = 1.000000e-06 : f64} : tensor<?x?x8xf32>, tensor<8xf32> -> tensor<?x?x8xf32>
  %e0 = kaoken.gelu %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %e0 = kaoken.gelu %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %e1 = kaoken.gelu %x {approximate = #kaoken<approximation tanh>} : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %e1 = kaoken.gelu %x {approximate = #kaoken<approximation tanh>} : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %e2 = kaoken.relu %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %e2 = kaoken.relu %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %e3 = kaoken.silu %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %e3 = kaoken.silu %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %e4 = kaoken.tanh %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %e4 = kaoken.tanh %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %e5 = kaoken.sigmoid %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %e5 = kaoken.sigmoid %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %e6 = kaoken.softmax %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %e6 = kaoken.softmax %x : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %h0 = kaoken.mean_pool %x, %mask : tensor<?x?x8xf32>, tensor<?x?xi1> -> tensor<?x8xf32>
// CHECK-NEXT: %h0 = kaoken.mean_pool %x, %mask : tensor<?x?x8xf32>, tensor<?x?xi1> -> tensor<?x8xf32>
  %h1 = kaoken.normalize %h0 : tensor<?x8xf32> -> tensor<?x8xf32>
// CHECK-NEXT: %h1 = kaoken.normalize %h0 : tensor<?x8xf32> -> tensor<?x8xf32>
  %h2 = kaoken.normalize %h0 {eps = 1.0e-6} : tensor<?x8xf32> -> tensor<?x8xf32>
// CHECK-NEXT: %h2 = kaoken.normalize %h0 {eps = 1.000000e-06 : f64} : tensor<?x8xf32> -> tensor<?x8xf32>
  func.return
// CHECK-NEXT: func.return
}
// CHECK-NEXT: }

func.func @tensors(%x: tensor<?x?x8xf32> {kaoken.name = "hidden", kaoken.shape = #kaoken.shape<[batch, tokens, 8]>}, %ids: tensor<?x?xi64>, %table: tensor<9x8xf32>) attributes {kaoken.result_shapes = [#kaoken.shape<["batch*tokens + 1"]>]} {
// CHECK: func.func @tensors(%x: tensor<?x?x8xf32> {kaoken.name = "hidden", kaoken.shape = #kaoken.shape<[batch, tokens, 8]>}, %ids: tensor<?x?xi64>, %table: tensor<9x8xf32>) attributes {kaoken.result_shapes = [#kaoken.shape<["batch*tokens + 1"]>]} {
  %g0 = kaoken.embedding %table, %ids : tensor<9x8xf32>, tensor<?x?xi64> -> tensor<?x?x8xf32>
// CHECK-NEXT: %g0 = kaoken.embedding %table, %ids : tensor<9x8xf32>, tensor<?x?xi64> -> tensor<?x?x8xf32>
  %f0 = kaoken.full 0.5 : f32 to <[batch, 4]> : tensor<?x4xf32>
// CHECK-NEXT: %f0 = kaoken.full 5.000000e-01 : f32 to <[batch, 4]> : tensor<?x4xf32>
  %f1 = kaoken.full true to <[]> : tensor<i1>
// CHECK-NEXT: %f1 = kaoken.full true to <[]> : tensor<i1>
  %f2 = kaoken.full 7 : i64 to <[2]> : tensor<2xi64>
// CHECK-NEXT: %f2 = kaoken.full 7 : i64 to <[2]> : tensor<2xi64>
  %i0 = kaoken.iota <[tokens]> : tensor<?xi64>
// CHECK-NEXT: %i0 = kaoken.iota <[tokens]> : tensor<?xi64>
  %i1 = kaoken.iota <["tokens + 1"]> {start = 3} : tensor<?xi64>
// CHECK-NEXT: %i1 = kaoken.iota <["tokens + 1"]> {start = 3 : i64} : tensor<?xi64>
  %r = kaoken.reshape %x to <["batch*tokens", 2, 4]> : tensor<?x?x8xf32> -> tensor<?x2x4xf32>
// CHECK-NEXT: %r = kaoken.reshape %x to <["batch*tokens", 2, 4]> : tensor<?x?x8xf32> -> tensor<?x2x4xf32>
  %t = kaoken.transpose %x [1, 0, 2] : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %t = kaoken.transpose %x [1, 0, 2] : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %s0 = kaoken.slice %x <[0, "tokens - 1"]> {dim = 1} : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %s0 = kaoken.slice %x <[0, "tokens - 1"]> {dim = 1 : i64} : tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %s1 = kaoken.slice %x <[1, 8]> {dim = 2, step = 3} : tensor<?x?x8xf32> -> tensor<?x?x3xf32>
// CHECK-NEXT: %s1 = kaoken.slice %x <[1, 8]> {dim = 2 : i64, step = 3 : i64} : tensor<?x?x8xf32> -> tensor<?x?x3xf32>
  %c = kaoken.concat %x, %x {dim = 1} : tensor<?x?x8xf32>, tensor<?x?x8xf32> -> tensor<?x?x8xf32>
// CHECK-NEXT: %c = kaoken.concat %x, %x {dim = 1 : i64} : tensor<?x?x8xf32>, tensor<?x?x8xf32> -> tensor<?x?x8xf32>
  %b = kaoken.broadcast %table to <[2, 9, 8]> : tensor<9x8xf32> -> tensor<2x9x8xf32>
// CHECK-NEXT: %b = kaoken.broadcast %table to <[2, 9, 8]> : tensor<9x8xf32> -> tensor<2x9x8xf32>
  %g1 = kaoken.gather %table at %f2, %f2 along [0, 1] : tensor<9x8xf32> at tensor<2xi64>, tensor<2xi64> -> tensor<2xf32>
// CHECK-NEXT: %g1 = kaoken.gather %table at %f2, %f2 along [0, 1] : tensor<9x8xf32> at tensor<2xi64>, tensor<2xi64> -> tensor<2xf32>
  %d = kaoken.cast %ids : tensor<?x?xi64> -> tensor<?x?xf32>
// CHECK-NEXT: %d = kaoken.cast %ids : tensor<?x?xi64> -> tensor<?x?xf32>
  %o0 = kaoken.elementwise neg %d : tensor<?x?xf32> -> tensor<?x?xf32>
// CHECK-NEXT: %o0 = kaoken.elementwise neg %d : tensor<?x?xf32> -> tensor<?x?xf32>
  %o1 = kaoken.elementwise lt %d, %o0 : tensor<?x?xf32>, tensor<?x?xf32> -> tensor<?x?xi1>
// CHECK-NEXT: %o1 = kaoken.elementwise lt %d, %o0 : tensor<?x?xf32>, tensor<?x?xf32> -> tensor<?x?xi1>
  %o2 = kaoken.elementwise select %o1, %d, %o0 : tensor<?x?xi1>, tensor<?x?xf32>, tensor<?x?xf32> -> tensor<?x?xf32>
// CHECK-NEXT: %o2 = kaoken.elementwise select %o1, %d, %o0 : tensor<?x?xi1>, tensor<?x?xf32>, tensor<?x?xf32> -> tensor<?x?xf32>
  %u0 = kaoken.reduce sum %x over [0, 2] : tensor<?x?x8xf32> -> tensor<?xf32>
// CHECK-NEXT: %u0 = kaoken.reduce sum %x over [0, 2] : tensor<?x?x8xf32> -> tensor<?xf32>
  %u1 = kaoken.reduce any %o1 over [1] {keepdim = true} : tensor<?x?xi1> -> tensor<?x1xi1>
// CHECK-NEXT: %u1 = kaoken.reduce any %o1 over [1] {keepdim = true} : tensor<?x?xi1> -> tensor<?x1xi1>
  %u2 = kaoken.cumsum %ids {dim = 1} : tensor<?x?xi64> -> tensor<?x?xi64>
// CHECK-NEXT: %u2 = kaoken.cumsum %ids {dim = 1 : i64} : tensor<?x?xi64> -> tensor<?x?xi64>
  func.return
// CHECK-NEXT: func.return
}
// CHECK-NEXT: }
