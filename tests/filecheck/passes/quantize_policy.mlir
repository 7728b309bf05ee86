// RUN: kaoken-opt %s -p 'quantize{dtype=int8 policy="%s.policy"},dce' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=int8 policy="%s.policy"},quantize{dtype=int8 policy="%s.policy"},dce' | filecheck %s

// A line of the policy says what the weights become that it names, or that are joined with one; the
// option says it of all others.
// CHECK:      kaoken.linear %{{.*}}, %{{.*}} input_scale {{.*}} : tensor<?x64xui8>, tensor<72x64xi8> -> tensor<?x72xf32>
// CHECK:      kaoken.linear %{{.*}}, %{{.*}} : tensor<?x72xbf16>, tensor<64x72xbf16> -> tensor<?x64xf32>
// CHECK:      kaoken.linear %{{.*}}, %{{.*}} : tensor<?x64xf32>, tensor<17x64xf32> -> tensor<?x17xf32>
func.func @main(%x: tensor<?x64xf32> {kaoken.shape = #kaoken.shape<[rows, 64]>}) -> tensor<?x17xf32> attributes {kaoken.max = {rows = 64}} {
  %u = kaoken.weight "layer.up" : tensor<72x64xf32>
  %d = kaoken.weight "layer.down" : tensor<64x72xf32>
  %l = kaoken.weight "last" : tensor<9x64xf32>
  %o = kaoken.weight "other" : tensor<8x64xf32>
  %w = kaoken.concat %o, %l {dim = 0 : i64} : tensor<8x64xf32>, tensor<9x64xf32> -> tensor<17x64xf32>
  %1 = kaoken.linear %x, %u : tensor<?x64xf32>, tensor<72x64xf32> -> tensor<?x72xf32>
  %2 = kaoken.linear %1, %d : tensor<?x72xf32>, tensor<64x72xf32> -> tensor<?x64xf32>
  %3 = kaoken.linear %2, %w : tensor<?x64xf32>, tensor<17x64xf32> -> tensor<?x17xf32>
  return %3 : tensor<?x17xf32>
}
