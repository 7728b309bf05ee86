// RUN: kaoken-opt %s -t 'c{target=generic lower=false}' | filecheck %s

// A choice as a loop's bound is made before the comparison with it.

func.func private @clear_few(%x: memref<?xf32>, %rows: index, %most: index) {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %nothing = arith.constant 0.0 : f32
  %fits = arith.cmpi sle, %rows, %most : index
  %count = arith.select %fits, %rows, %zero : index
  scf.for %i = %zero to %count step %one {
    memref.store %nothing, %x[%i] : memref<?xf32>
  }
  func.return
}

// CHECK:      static void clear_few(
// CHECK:        i < ({{.*}} ? rows : 0); i++) {
