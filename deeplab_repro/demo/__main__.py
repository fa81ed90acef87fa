"""Write the page of `make demo`: python -m deeplab_repro.demo FOLDER"""

import sys

from deeplab_repro.demo.page import write_demo

if __name__ == "__main__":
    for file in write_demo(sys.argv[1]):
        print(file)
