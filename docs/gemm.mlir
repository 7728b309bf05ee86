// One linear layer: 128 rows of 768 numbers in, 3072 out. BERT-base has twelve of this size.
func.func @main(%x: tensor<128x768xf32> {kaoken.name = "x"})
    -> tensor<128x3072xf32> attributes {kaoken.results = ["y"]} {
  %w = arith.constant dense<0.02> : tensor<3072x768xf32>
  %b = arith.constant dense<0.5> : tensor<3072xf32>
  %y = kaoken.linear %x, %w bias %b : tensor<3072xf32>
    : tensor<128x768xf32>, tensor<3072x768xf32> -> tensor<128x3072xf32>
  return %y : tensor<128x3072xf32>
}
