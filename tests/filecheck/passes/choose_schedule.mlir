// RUN: kaoken-opt %s -p 'choose-schedule{target=x86-64-v4}' | filecheck %s
// RUN: kaoken-opt %s -p 'choose-schedule{target=x86-64-v3}' | filecheck %s --check-prefix=V3
// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v4+amx"}' | filecheck %s --check-prefix=AMX
// RUN: kaoken-opt %s -p 'choose-schedule{target="x86-64-v4+amx+l1=48K+l2=2M"}' | filecheck %s --check-prefix=CACHES

// CACHES: builtin.module attributes {kaoken.target = "x86-64-v4+amx+l1=48K+l2=2M"}
// AMX: builtin.module attributes {kaoken.target = "x86-64-v4+amx"}
// CHECK: builtin.module attributes {kaoken.target = "x86-64-v4"}
func.func @main(%x: tensor<?x768xf32> {kaoken.shape = #kaoken.shape<[tokens, 768]>}) -> tensor<?x3072xf32> attributes {kaoken.max = {tokens = 512}} {
  %w = kaoken.weight "w" : tensor<3072x768xf32>
  %g = kaoken.weight "g" : tensor<3072xf32>
  // CHECK: kaoken.linear
  // CHECK-SAME: schedule = #kaoken.schedule<panel(16), tile(m, 128), tile(m_in, 8), tile(n0, 3), order(m, n0, m_in, m_in_in, n0_in, n1), vectorize(m_in_in, n0_in, n1), prefetch(k, 16), prefetch(n0, 1), parallel(n0)>
  // V3: kaoken.linear
  // V3-SAME: schedule = #kaoken.schedule<panel(24), tile(m, 128), tile(m_in, 4), order(m, n0, m_in, m_in_in, n1), vectorize(m_in_in, n1), prefetch(n0, 1), unroll(k, 8), tile(p, 2), vectorize(p_in, n1), parallel(p), parallel(n0)>
  %y = kaoken.linear %x, %w : tensor<?x768xf32>, tensor<3072x768xf32> -> tensor<?x3072xf32>
  // CHECK: kaoken.rms_norm
  // CHECK-SAME: schedule = #kaoken.schedule<tile(h, 64), vectorize(h_in), parallel(m)>
  // V3: kaoken.rms_norm
  // V3-SAME: schedule = #kaoken.schedule<tile(h, 32), vectorize(h_in), parallel(m)>
  %z = kaoken.rms_norm %y, %g {eps = 1.0e-5 : f64} : tensor<?x3072xf32>, tensor<3072xf32> -> tensor<?x3072xf32>
  // A schedule that stands there already is kept.
  // CHECK: kaoken.relu
  // CHECK-SAME: schedule = #kaoken.schedule<parallel(m)>
  %r = kaoken.relu %z {schedule = #kaoken.schedule<parallel(m)>} : tensor<?x3072xf32> -> tensor<?x3072xf32>
  return %r : tensor<?x3072xf32>
}

// A matrix unit takes the sums of narrow layers alone.
// CACHES-LABEL: func.func @narrow
// CACHES:   tile(m_in, 128), tile(k, 96)
// AMX-LABEL: func.func @narrow
// AMX:       kaoken.linear
// AMX-SAME:  schedule = #kaoken.schedule<panel(32), tile(m, 512), tile(m_in, 64), tile(k, 64), order(m, n0, m_in, m_in_in, n1), tensorize(m_in_in, n1, k), vectorize(n1), prefetch(k, 64), prefetch(k, 256), parallel(n0)>
// AMX:       kaoken.linear
// AMX-SAME:  tile(m_in, 8), tile(n0, 3), order(m, n0, m_in, m_in_in, n0_in, n1), vectorize(m_in_in, n0_in, n1), prefetch(k, 16), prefetch(n0, 1), parallel(n0)>
// CHECK-LABEL: func.func @narrow
// CHECK:       kaoken.linear
// CHECK-SAME:  tile(m_in, 8), tile(n0, 3), order(m, n0, m_in, m_in_in, n0_in, n1), vectorize(m_in_in, n0_in, n1), prefetch(k, 16), prefetch(n0, 1), parallel(n0)>
func.func @narrow(%x: tensor<?x768xbf16> {kaoken.shape = #kaoken.shape<[tokens, 768]>}) -> (tensor<?x768xf32>) attributes {kaoken.max = {tokens = 512}} {
  %w = kaoken.weight "v" : tensor<768x768xbf16>
  %u = kaoken.weight "u" : tensor<768x768xf32>
  %y = kaoken.linear %x, %w : tensor<?x768xbf16>, tensor<768x768xbf16> -> tensor<?x768xf32>
  %z = kaoken.linear %y, %u : tensor<?x768xf32>, tensor<768x768xf32> -> tensor<?x768xf32>
  return %z : tensor<?x768xf32>
}

// Panels of three registers would leave an uneven last one. As many rows as a third of the second
// cache holds pass the panels together: more where a row is short, or that cache large.
// V3-LABEL: func.func @sizes
// V3:         panel(16), tile(m, 132), tile(m_in, 6),
// CACHES-LABEL: func.func @sizes
// CACHES:     tile(m, 348), tile(m_in, 12), tile(n0, 2)
func.func @sizes(%x: tensor<?x512xf32> {kaoken.shape = #kaoken.shape<[tokens, 512]>}) -> (tensor<?x2048xf32>) attributes {kaoken.max = {tokens = 512}} {
  %w = kaoken.weight "s" : tensor<2048x512xf32>
  %y = kaoken.linear %x, %w : tensor<?x512xf32>, tensor<2048x512xf32> -> tensor<?x2048xf32>
  return %y : tensor<?x2048xf32>
}

// What reads whole rows to give one number a row goes along them in vectors too.
// CHECK-LABEL: func.func @scales
// CHECK:       kaoken.row_scale
// CHECK-SAME:  schedule = #kaoken.schedule<tile(h, 64), vectorize(h_in), parallel(m)>
func.func @scales(%x: tensor<?x768xf32> {kaoken.shape = #kaoken.shape<[tokens, 768]>}) -> tensor<?xf32> attributes {kaoken.max = {tokens = 512}} {
  %s = kaoken.row_scale %x : tensor<?x768xf32> -> tensor<?xf32>
  return %s : tensor<?xf32>
}

// Products of attention in bf16 are the matrix unit's as well.
// AMX-LABEL: func.func @attention
// AMX:       kaoken.attention
// AMX-SAME:  schedule = #kaoken.schedule<panel(32), tile(i, 32), tensorize(i_in, j1, d), tensorize(i_in, e1, j), vectorize(j1), vectorize(e1), vectorize(lane), parallel(bh)>
// CHECK-LABEL: func.func @attention
// CHECK:       kaoken.attention
// CHECK-SAME:  schedule = #kaoken.schedule<panel(32), tile(i, 32), tile(i_in, 8),
// CHECK-NEXT:  kaoken.attention
// CHECK-SAME:  vectorize(lane), unroll(d, 4), unroll(j, 4), parallel(bh)>
func.func @attention(%x: tensor<1x64x128xf32>) -> tensor<1x64x128xf32> {
  %y = kaoken.attention %x, %x, %x {num_heads = 2, num_kv_heads = 2, scale = 0.125 : f64, causal = false, bf16_products} : tensor<1x64x128xf32>, tensor<1x64x128xf32>, tensor<1x64x128xf32> -> tensor<1x64x128xf32>
  %z = kaoken.attention %y, %x, %x {num_heads = 2, num_kv_heads = 2, scale = 0.125 : f64, causal = false} : tensor<1x64x128xf32>, tensor<1x64x128xf32>, tensor<1x64x128xf32> -> tensor<1x64x128xf32>
  return %z : tensor<1x64x128xf32>
}
